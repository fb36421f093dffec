"""The report of a large study shows a part of its samples, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.synthetic_study import SyntheticStudy, browser_data_of
from usertune.reporting.browser import chosen


def test_a_large_study_shows_as_many_samples_of_each_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = SyntheticStudy(tmp_path, users=["1", "2"], samples=12, fewer={"2": 3}, experiments=["vanilla", "lora"])
    page = study.write().report().read_text(encoding="utf-8")
    everything = browser_data_of(page)
    assert len(everything["samples"]["id"]) == 15
    assert "Shown are" not in page
    monkeypatch.setattr(chosen, "MOST_SHOWN", 8)
    page = study.report().read_text(encoding="utf-8")
    shown = browser_data_of(page)
    assert shown["samples"]["id"] == ["1/0", "1/3", "1/6", "1/9", "2/0", "2/1", "2/2"]
    assert "Shown are 7 of 15 samples" in page
    places = [everything["samples"]["id"].index(name) for name in shown["samples"]["id"]]
    for before, after in zip(everything["answers"], shown["answers"], strict=True):
        assert after["text"] == [before["text"][place] for place in places]
        assert after["distance"] == [before["distance"][place] for place in places]
    # The rest of the page is about all samples.
    for text in ("Its worst user is", "cut off"):
        assert text in page
