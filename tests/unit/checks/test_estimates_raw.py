"""Lengths of samples that are not prepared yet, from a few raw samples and the headers of their images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.support.synthetic_study import SyntheticStudy
from usertune.checks.estimates import raw_samples
from usertune.checks.estimates.lines import estimates_in_lines
from usertune.checks.estimates.machine import Machine
from usertune.checks.estimates.raw_samples import look_at_raw_samples
from usertune.checks.estimates.study import Estimate, estimate

SMALL = Machine("gpu", 2**20, "a test")


@pytest.fixture
def unprepared(make_study: Callable[..., SyntheticStudy]) -> SyntheticStudy:
    """A study of which no user is prepared."""
    made = make_study()
    for manifest in Path(made.study.results).glob("data/*.manifest.json"):
        manifest.unlink()
    return made


def _estimate(made: SyntheticStudy, machine: Machine = SMALL) -> Estimate:
    return estimate(made.study, machine, look_at_raw=look_at_raw_samples)


def test_raw_samples_have_the_lengths_that_prepared_ones_get(make_study: Callable[..., SyntheticStudy]) -> None:
    made = make_study()
    prepared = _estimate(made)
    for manifest in Path(made.study.results).glob("data/*.manifest.json"):
        manifest.unlink()
    raw = _estimate(made)
    assert prepared.train is not None
    assert raw.train is not None
    assert (prepared.train.source, raw.train.source) == ("prepared", "headers")
    assert raw.train.sizes == prepared.train.sizes
    assert raw.train.tokens == prepared.train.tokens
    assert raw.trainings["lora"].memory == prepared.trainings["lora"].memory


def test_no_pixel_is_decoded(unprepared: SyntheticStudy) -> None:
    with patch("PIL.ImageFile.ImageFile.load", side_effect=AssertionError("decoded")):
        found = look_at_raw_samples(unprepared.study, unprepared.study.users.train)
    assert found.samples
    assert not found.bad


def test_the_samples_are_spread_over_the_users(unprepared: SyntheticStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    users = unprepared.study.all_users
    monkeypatch.setattr(raw_samples, "MOST_SAMPLES", 2 * len(users))
    found = look_at_raw_samples(unprepared.study, users)
    assert [sample["user"] for sample in found.samples] == [user for user in users for _ in range(2)]
    assert found.count == len(users) * unprepared.samples
    monkeypatch.setattr(raw_samples, "MOST_SAMPLES", len(users) - 1)
    found = look_at_raw_samples(unprepared.study, users)
    assert [sample["user"] for sample in found.samples] == list(users[::2])


def test_what_is_shown_says_how_many_were_looked_at(unprepared: SyntheticStudy) -> None:
    samples, users = unprepared.samples, len(unprepared.study.users.train)
    said = f"not prepared yet: image headers of {samples * users} of at most {samples * users} samples"
    assert said in estimates_in_lines(_estimate(unprepared))


def test_lengths_of_raw_samples_refuse_what_cannot_fit(unprepared: SyntheticStudy) -> None:
    (problem, *_) = _estimate(unprepared).problems(["lora"])
    assert problem.startswith("experiments.lora: training of lora needs about ")


def test_bad_samples_are_left_out_and_counted(unprepared: SyntheticStudy) -> None:
    user, other = unprepared.study.users.train[:2]
    (unprepared.dataset / f"images/{user}_0.png").write_bytes(b"GIF89a")
    (unprepared.dataset / f"images/{user}_1.png").unlink()
    (unprepared.dataset / f"user_{other}.jsonl").write_bytes(b"\xff\xfe{")
    estimated = _estimate(unprepared)
    assert estimated.train is not None
    assert estimated.train.bad == 3
    assert ", 3 bad ones left out" in estimates_in_lines(estimated)


def test_without_a_usable_sample_the_lengths_are_assumed(unprepared: SyntheticStudy) -> None:
    for image in (unprepared.dataset / "images").iterdir():
        image.unlink()
    estimated = _estimate(unprepared)
    assert estimated.train is not None
    assert estimated.train.assumed
    assert estimated.problems(["lora"]) == []
