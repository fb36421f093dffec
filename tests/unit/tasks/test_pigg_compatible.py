"""The metric of the reference experiment, against values worked out by hand."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest

from usertune.tasks.metrics import aggregates, at_thresholds, mean_over_users, sample_values
from usertune.tasks.pigg_compatible import METRICS, PiggCompatibleTask

TASK = PiggCompatibleTask()
POINT = "```grounding\n[512, 304]\n```"


@pytest.mark.parametrize(
    ("text", "point"),
    [
        (POINT, (512, 304)),
        ("```referring\n(1, 2)\n```\n```grounding\n[512, 304]\n```", (512, 304)),
        # Four integers, in each way of writing a box: its first corner.
        ("```grounding\n[500, 290, 524, 318]\n```", (500, 290)),
        ("```grounding\n(500, 290) to (524, 318)\n```", (500, 290)),
        ("```grounding\nTop-left corner: (500, 290)\nBottom-right corner: (524, 318)\n```", (500, 290)),
        # Four integers come before all else, although a pair precedes them.
        ("```grounding\n(1, 2)\n[500, 290, 524, 318]\n```", (500, 290)),
        ("```grounding\n(1, 2) and (500, 290) to (524, 318)\n```", (500, 290)),
        ("```grounding\n(1, 2), Bottom-right: (524, 318)\n```", (524, 318)),
        # Digits around the comma.
        ("```grounding\n[311.7, 541.2]\n```", (7, 541)),
        ("```grounding\n[311.5, 541.2]\n```", (5, 541)),
        ("```grounding\n[-20, 30]\n```", (20, 30)),
        # Not the block of the reference, or none that ends.
        ("```grounding\n[512, 304]", (0, 0)),
        ("```Grounding\n[512, 304]\n```", (0, 0)),
        ("``` grounding\n[512, 304]\n```", (0, 0)),
        ("[512, 304]", (0, 0)),
        ("I cannot see it.", (0, 0)),
        ("", (0, 0)),
        ("```grounding\n512 304\n```", (0, 0)),
        ("```grounding\nnothing\n```\n```grounding\n[1, 2]\n```", (0, 0)),
        # The first block that is closed: here the fence of the second one closes the first.
        ("```grounding\n[1, 2]\n```grounding\n[3, 4]\n```", (3, 4)),
        # Only what follows the last "assistant".
        ("user ```grounding\n[1, 2]\n``` assistant\n" + POINT, (512, 304)),
        (POINT + " for the voice assistant", (0, 0)),
    ],
)
def test_points_are_read_as_the_reference_reads_them(text: str, point: tuple[float, float]) -> None:
    assert TASK.read(text) == (point, "pigg")
    assert TASK.read(text, ended=False) == (point, "pigg")


def sample(answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", "content": [{"type": "text", "text": answer}]}], "target": {}}


def test_expected_answers_are_read_by_the_same_parser_and_whole() -> None:
    assert TASK.target_of(sample("```grounding\n[311.7, 541.2]\n```")) == (7, 541)
    assert TASK.target_of(sample("```referring\nassistant\n```\n" + POINT)) == (512, 304)
    assert TASK.target_of(sample(POINT + "assistant")) == (512, 304)
    assert TASK.target_of(sample("```grounding\nnothing\n```")) == (0, 0)


def test_samples_of_another_kind_have_no_target() -> None:
    with pytest.raises(ValueError, match="no ```grounding block"):
        TASK.target_of(sample('{"action": "wait"}'))


def test_accuracy_mean_and_median_are_those_worked_out_by_hand() -> None:
    """Distances 0, 140, 141, and the target (30, 40) from (0, 0): 50, a hit of an answer that names nothing."""
    metrics = at_thresholds(METRICS, [140])
    cases = [("[100, 100]", (100, 100)), ("[100, 240]", (100, 100)), ("[100, 241]", (100, 100)), ("none", (30, 40))]
    rows = [sample_values(metrics, TASK.read(f"```grounding\n{text}\n```")[0], target) for text, target in cases]
    assert [row["pigg_distance"] for row in rows] == [0, 140, 141, 50]
    assert [row["pigg_hit"] for row in rows] == [1, 1, 0, 1]
    found = aggregates(metrics, rows)
    assert found["pigg_accuracy"] == found["pigg_accuracy_by_user"] == 0.75
    assert found["pigg_mean_l2"] == found["pigg_mean_l2_by_user"] == 331 / 4
    assert found["pigg_median_l2"] == found["pigg_median_l2_by_user"] == 95


def test_the_mean_over_users_weighs_users_and_folds_alike() -> None:
    """User A has folds of accuracy 0.2, 0.4 and 0.6, user B has one of 0.8: (0.4 + 0.8) / 2 = 0.6, not 2.0 / 4."""
    assert mean_over_users([[0.2, 0.4, 0.6], [0.8]]) == pytest.approx(0.6)
    # Medians of the folds are averaged, not pooled: (median of 1, 9 is 5; of 2, 4, 6 is 4) -> 4.5, and 10 -> 7.25.
    assert mean_over_users([[5, 4], [10]]) == 7.25
    assert mean_over_users([[value] for value in (0.1, 0.5)]) == fmean((0.1, 0.5))
    assert mean_over_users([]) is None


def test_the_number_of_a_user_with_folds_is_the_mean_of_its_folds() -> None:
    """Distances 10 and 150 in fold 1 (accuracy 1/2, mean 80), 200, 300 and 400 in fold 2 (0, 300): not pooled."""
    metrics = at_thresholds(METRICS, [140])
    rows = [
        {"fold": fold, **sample_values(metrics, (0.0, 0.0), (0.0, distance))}
        for fold, distance in ((1, 10), (2, 200), (1, 150), (2, 300), (2, 400))
    ]
    found = aggregates(metrics, rows)
    assert (found["pigg_accuracy"], found["pigg_accuracy_by_user"]) == (1 / 5, 1 / 4)
    assert (found["pigg_mean_l2"], found["pigg_mean_l2_by_user"]) == (212, 190)
    assert (found["pigg_median_l2"], found["pigg_median_l2_by_user"]) == (200, 190)
    # A fold in which no sample has a value is left out.
    empty = [{**row, "fold": 3, "pigg_hit": None, "pigg_distance": None} for row in rows]
    assert aggregates(metrics, [*rows, *empty]) == found
