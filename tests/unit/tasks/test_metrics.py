"""Metrics that apply to a part of the samples, and the choice of the primary one."""

from __future__ import annotations

from typing import Any

import pytest

from usertune.tasks.metrics import Metric, aggregates, at_thresholds, combine_episodes, of_further_task, sample_values


def equal(answer: str, target: str) -> int:
    return int(answer == target)


RIGHT = Metric("right", title="right", column="right", measure=equal, unparsed=0)
LONG = Metric(
    "long", title="long ones", column="long", measure=equal, unparsed=0, applies=lambda target: len(target) > 2
)
DONE = Metric(
    "done",
    title="done",
    column="done",
    measure=equal,
    unparsed=0,
    applies=lambda target: len(target) > 2,
    episode=min,
)


def test_a_metric_has_no_value_where_it_does_not_apply_whatever_the_answer() -> None:
    assert sample_values([RIGHT, LONG], "ab", "ab") == {"right": 1, "long": None}
    assert sample_values([RIGHT, LONG], None, "ab") == {"right": 0, "long": None}
    assert sample_values([RIGHT, LONG], None, "abc") == {"right": 0, "long": 0}
    assert sample_values([RIGHT, LONG], "abc", "abc") == {"right": 1, "long": 1}


def test_aggregates_are_over_the_samples_that_it_applies_to() -> None:
    rows = [sample_values([RIGHT, LONG], answer, target) for answer, target in (("a", "b"), ("abc", "abc"), ("c", "c"))]
    assert aggregates([RIGHT, LONG], rows) == {"right": 2 / 3, "long": 1}
    assert aggregates([LONG], rows[:1]) == {"long": None}


def test_an_episode_counts_the_samples_that_it_applies_to() -> None:
    rows: list[dict[str, Any]] = [
        {"episode": "e", **sample_values([DONE], "abc", "abc")},
        {"episode": "e", **sample_values([DONE], "x", "ab")},
        {"episode": "f", **sample_values([DONE], "x", "ab")},
    ]
    combine_episodes([DONE], rows)
    assert [row["done"] for row in rows] == [None, 1, None]


def test_a_study_may_name_the_primary_metric() -> None:
    assert [metric.name for metric in at_thresholds([RIGHT, LONG], [140])] == ["right", "long"]
    assert [metric.name for metric in at_thresholds([RIGHT, LONG], [140], "long")] == ["long", "right"]
    with pytest.raises(ValueError, match="'wrong' is no metric of this study; use one of: right, long"):
        at_thresholds([RIGHT, LONG], [140], "wrong")
    median = Metric("median", title="m", column="median", measure=equal, aggregate="median")
    with pytest.raises(ValueError, match="median comes first, so it must be a mean over all samples"):
        at_thresholds([RIGHT, median], [140], "median")


def test_tasks_must_not_share_names_or_columns_of_metrics() -> None:
    with pytest.raises(ValueError, match="right and right measure differently"):
        at_thresholds([RIGHT, *of_further_task([RIGHT], "other")], [140])
    named = Metric("right", title="right", column="other", measure=equal)
    with pytest.raises(ValueError, match="right is listed twice"):
        at_thresholds([RIGHT, *of_further_task([named], "other")], [140])
