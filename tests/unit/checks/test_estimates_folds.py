"""How many trainings, loads and samples experiments on folds have, and what they write."""

from __future__ import annotations

from typing import Any

import pytest

from usertune.checks.estimates.disk import Disk
from usertune.checks.estimates.samples import Lengths, SampleSize
from usertune.checks.estimates.trainings import trainings_of
from usertune.study.load import study_from_config

# 100 tokens each.
SIZE = SampleSize(((10, 10),), 2, 10, 5)
TEST = Lengths(120, (SIZE,), (10,), (100,), (5,), 1.0, True)
TRAIN = Lengths(40, (SIZE,), (10,), (100,), (5,), 1.0, True)
PERSONAL = {"mode": "lora", "scope": "personal"}


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        # Four users with 30 samples and three folds, in two jobs.
        (PERSONAL, (12, 2, 20, 24_000)),
        ({"mode": "full", "scope": "personal"}, (12, 12, 20, 24_000)),
        ({**PERSONAL, "samples": 5}, (12, 2, 5, 6_000)),
        ({"mode": "lora", "scope": "pooled"}, (3, 1, 80, 24_000)),
        ({"mode": "lora"}, (1, 1, 40, 4_000)),
        ({"mode": "vanilla"}, None),
    ],
)
def test_trainings_of_an_experiment(experiment: dict[str, Any], expected: tuple[int, ...] | None) -> None:
    study = study_from_config(
        {
            "name": "estimates",
            "dataset": {"root": "data"},
            "users": {"train": "11", "test": "1-4"},
            "base_model": {"path": "base"},
            "folds": {"count": 3},
            "experiments": {"one": experiment},
            "evaluation": {"users_per_job": 2},
        }
    )
    found = trainings_of(study, "one", TRAIN, TEST)
    assert (found and (found.count, found.loads, found.samples, found.tokens)) == expected


def test_results_of_all_trainings_stay_and_working_files_of_one() -> None:
    assert Disk(checkpoint=5, weights=2, peak=17).times(10) == Disk(5, 20, 35)
