"""The note on what the splits have in common says how many samples, of which kind, and nothing if there are none."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from usertune.data.leakage import Overlap
from usertune.reporting.sections.leakage import MEANING, leakage_note


def manifest(*overlaps: Overlap) -> dict[str, Any]:
    return {"overlaps": [asdict(overlap) for overlap in overlaps], "recipe": {"within": 24}}


def test_nothing_is_said_if_there_is_nothing() -> None:
    assert leakage_note(manifest(), "data/leakage.json") == ""
    assert leakage_note(manifest(Overlap("train", "test", samples=300)), "data/leakage.json") == ""


def test_the_test_samples_come_first() -> None:
    validation = Overlap("train", "validation", samples=50, affected=1, samples_with_identical_screenshot=1)
    test = Overlap(
        "train",
        "test",
        samples=300,
        near_identical_screenshots=2,
        affected=12,
        samples_with_near_identical_screenshot=3,
        samples_with_identical_pair=6,
        samples_repeated=2,
    )
    assert leakage_note(manifest(validation, test), "data/leakage.json") == (
        "Of 300 test samples, 12 (4.0 %) show a screenshot that a training user also has (3 nearly identical), and 6 "
        "(2.0 %) have question and answer of a training user (2 with the same screenshot). "
        "Of 50 validation samples, 1 (2.0 %) shows a screenshot that a training user also has. "
        f"{MEANING} Counts and examples (nearly identical: at most 24 of 256 bits of a perceptual hash differ): "
        "data/leakage.json."
    )


def test_folds_are_told_after_the_splits_and_as_those_of_one_user() -> None:
    folds = [
        Overlap(
            "other folds of the user",
            name,
            samples=80,
            affected=20,
            samples_with_near_identical_screenshot=20,
            near_identical_screenshots=9,
            samples_with_identical_pair=1,
            samples_repeated=1,
        )
        for name in ("each fold of all test users", "each fold of user 1")
    ]
    pooled = replace(folds[0], earlier="other folds of all test users", affected=0, samples_with_identical_pair=2)
    splits = Overlap("train", "test", samples=80, affected=1)
    said = leakage_note({**manifest(splits), "folds": [asdict(overlap) for overlap in (*folds, pooled)]}, "l.json")
    assert said == (
        "Of 80 test samples, 1 (1.2 %) shows a screenshot that a training user also has. "
        "Of 80 test samples, 20 (25.0 %) show a screenshot that another fold of the same user also has (all nearly "
        "identical), and 1 (1.2 %) has question and answer of another fold of the same user (1 with the same "
        "screenshot). Of 80 test samples, 2 (2.5 %) have question and answer of another fold of a test user (1 with "
        f"the same screenshot). {MEANING} Counts and examples (nearly identical: at most 24 of 256 bits of a "
        "perceptual hash differ): l.json."
    )


def test_questions_alone() -> None:
    overlap = Overlap("fold 1", "fold 2", samples=4, samples_with_identical_pair=1)
    assert leakage_note(manifest(overlap), "l.json") == (
        "Of 4 fold 2 samples, 1 (25.0 %) has question and answer of a fold 1 user (on other screenshots). "
        f"{MEANING} Counts and examples: l.json."
    )
