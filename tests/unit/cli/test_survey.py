"""What users have is counted in the same way from raw and from prepared data, and shown in tables and on a page."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.synthetic_study import SyntheticStudy
from usertune.cli.survey import count, in_words, run
from usertune.data.readers.messages import MessagesReader
from usertune.data.survey import UserCounts, action_rows, app_rows, header_size, of_raw, size_rows, user_rows


def user(name: str, apps: dict[str, int]) -> UserCounts:
    found = UserCounts(name, "train", f"raw {name}")
    for app, samples in apps.items():
        for number in range(samples):
            found.add(f"{app} {number % 2}", "click", {"app": app, "time": f"2025-03-0{number + 1}"})
    return found


def test_apps_that_one_user_alone_has() -> None:
    users = [user("1", {"mail": 3, "bank": 1}), user("2", {"mail": 2}), UserCounts("3", "test", samples=2)]
    rows = user_rows(users)
    assert [row["unique_apps"] for row in rows] == [1, 0, 0]
    assert [row["share_of_samples_in_unique_apps"] for row in rows] == [0.25, 0.0, None]
    assert (rows[0]["first"], rows[0]["last"], rows[0]["id_in_data"]) == ("2025-03-01", "2025-03-03", "raw 1")
    assert app_rows(users) == [
        {"app": "mail", "samples": 5, "users": 2, "only_user": ""},
        {"app": "bank", "samples": 1, "users": 1, "only_user": "1"},
    ]
    assert action_rows(users) == [{"action": "click", "samples": 6}]
    assert size_rows(users) == []
    assert "25.0 %" in in_words(rows)


def test_headers_alone_are_read_and_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    Image.new("RGB", (30, 50), "red").save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2 + 8])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    os.mkfifo(tmp_path / "pipe.png")
    assert header_size(tmp_path, "a.png") == header_size(tmp_path, "cut.png") == (30, 50)
    for name in ("empty.png", "text.png", "pipe.png", "missing.png", "../a.png", "/etc/passwd"):
        assert header_size(tmp_path, name) is None, name


def test_bad_samples_of_raw_data_are_counted(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "```grounding\n[1, 2]\n```"}]
    lines = [json.dumps({"id": "a", "messages": turns}), "{", json.dumps({"id": "b", "messages": []})]
    (tmp_path / "user_1.jsonl").write_text("\n".join(lines))
    (found,) = of_raw(MessagesReader(tmp_path, MessagesReader.Options()), tmp_path, [("test", "1")])
    assert (found.samples, found.bad, found.actions) == (1, 2, {"answer": 1})


@pytest.fixture
def study(tmp_path: Path) -> SyntheticStudy:
    found = SyntheticStudy(tmp_path, users=["1", "2"], samples=3)
    for name in found.study.all_users:
        found.write_raw(name)
    return found


def test_raw_and_prepared_data_give_the_same_numbers(study: SyntheticStudy) -> None:
    source, raw = count(study.study)
    assert source == "raw data"
    study.make_all("prepare")
    source, prepared = count(study.study)
    assert source == "prepared samples"
    assert [row["samples"] for row in user_rows(prepared)] == [3] * 5
    same = ("user", "split", "samples", "episodes", "commonest_size", "bad")
    assert [[row[key] for key in same] for row in user_rows(raw)] == [
        [row[key] for key in same] for row in user_rows(prepared)
    ]


def test_the_splits_are_compared_from_raw_and_from_prepared_data(
    study: SyntheticStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import usertune.cli.survey as command

    monkeypatch.setattr(command, "study_of", lambda _: study.study)

    class Arguments:
        to: Any = tmp_path / "out"

    def printed() -> tuple[str, list[dict[str, str]], str]:
        run(Arguments())  # type: ignore[arg-type]
        with (tmp_path / "out/overlaps.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return capsys.readouterr().out, rows, (tmp_path / "out/survey.html").read_text(encoding="utf-8")

    pairs = [("train", "validation"), ("train", "test"), ("validation", "test")]
    said, raw, page = printed()
    assert "by the bytes of raw images" in said
    assert 'id="overlaps"' in page
    study.make_all("prepare")
    study.make_all("leakage")
    said, prepared, page = printed()
    assert "at most 24 of 256 bits of a hash differ" in said
    assert "without a stored hash" not in said
    assert (
        [(row["earlier"], row["later"]) for row in raw] == [(row["earlier"], row["later"]) for row in prepared] == pairs
    )
    assert [row["identical_screenshots"] for row in raw] == [row["identical_screenshots"] for row in prepared]
    step = (Path(study.study.results) / "data/leakage.csv").read_text(encoding="utf-8")
    assert (tmp_path / "out/overlaps.csv").read_text(encoding="utf-8") == step, "as the step leakage counts"
    for later, earlier in (("test", "train"), ("test", "validation")):
        assert f"  {later} and {earlier}: " in said
        assert f'<th scope="row">{later} and {earlier}</th>' in page


def test_the_folds_of_prepared_test_users_are_compared_and_users_with_too_few_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import usertune.cli.survey as command

    changes = {"folds": {"count": 3, "by": "episode"}}
    study = SyntheticStudy(tmp_path, users=["1", "2"], samples=6, episodes=3, changes=changes)
    for name in study.study.all_users:
        study.episodes = 2 if name == "2" else 3
        study.write_raw(name)
    study.make_all("prepare")
    monkeypatch.setattr(command, "study_of", lambda _: study.study)

    class Arguments:
        to: Any = tmp_path / "out"

    run(Arguments())  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "What the splits, and the folds of each test user, have in common" in said
    assert "too few samples for the folds: user 2)" in said
    assert "each fold of all test users and other folds of the user: " in said
    with (tmp_path / "out/overlaps.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["later"], row["samples"]) for row in csv.DictReader(file)]
    assert rows[3:] == [("each fold of all test users", "6"), ("each fold of user 1", "6")]
    assert "each fold of user 1 and other folds of the user" in (tmp_path / "out/survey.html").read_text()


def test_the_command_writes_tables_and_a_page_that_loads_nothing(
    study: SyntheticStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import usertune.cli.survey as command

    hostile = user("1", {"<script>alert(1)</script>\n$x_{": 2, "微信": 1})
    monkeypatch.setattr(command, "study_of", lambda _: study.study)
    monkeypatch.setattr(command, "count", lambda _: ("raw data", [hostile]))

    class Arguments:
        to: Any = tmp_path / "out"

    run(Arguments())  # type: ignore[arg-type]
    assert "1 user, 3 samples, 3 episodes, 2 apps, of which one user alone has 2" in capsys.readouterr().out
    page = (tmp_path / "out/survey.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "微信" in page
    assert page.count('src="data:image/svg+xml;base64,') == 2
    assert page.count('alt="Bar chart') == 2
    assert "default-src 'none'" in page
    with (tmp_path / "out/apps.csv").open(encoding="utf-8", newline="") as file:
        assert [row["samples"] for row in csv.DictReader(file)] == ["2", "1"]
