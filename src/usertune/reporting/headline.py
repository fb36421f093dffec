"""The comparison in one sentence, no stronger than the intervals allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from usertune.core.formatting import is_missing, percent, percent_interval, points, points_interval
from usertune.evaluation.tables import ComparisonDesign

MOST_COMPARED = 3


@dataclass(frozen=True)
class Gap:
    """How much more often ``experiment`` hits than ``other`` on the same samples (fractions)."""

    experiment: str
    other: str
    users: int
    difference: float
    low: float
    high: float


def headline(design: ComparisonDesign, summary: pd.DataFrame, differences: pd.DataFrame) -> str:
    """Return the main result as one sentence.

    The best experiments (up to `MOST_COMPARED`) are compared with the baseline, then the best two that are not
    the baseline with each other. "Beats" and "falls behind" are said only where the interval of the paired
    difference leaves out zero.

    Args:
        summary, differences: the tables of those names, see `usertune.evaluation.compare`.
    """
    rows = summary.set_index("experiment").loc[design.names]
    users, samples = int(rows["users"].iloc[0]), int(rows["samples"].iloc[0])
    start = f"On {samples:,} samples of {users} user{'' if users == 1 else 's'}, "
    ranked = [str(name) for name in rows["click_accuracy"].sort_values(ascending=False, kind="stable").index]
    others = [name for name in ranked if name != design.baseline]
    gaps = []
    if design.baseline is not None:
        gaps = [_gap(differences, name, design.baseline) for name in others[:MOST_COMPARED]]
    if len(others) > 1:
        gaps.append(_gap(differences, others[0], others[1]))
    if not gaps:
        return start + _alone(ranked[0], rows.loc[ranked[0]]) + "."
    level = f"{100 * rows['confidence'].iloc[0]:g} %"
    brackets = "" if all(is_missing(gap.low) for gap in gaps) else f" (in brackets: {level} intervals)"
    return start + "; ".join(_words(gap) for gap in gaps) + brackets + "."


def _alone(name: str, row: Any) -> str:
    interval = percent_interval(row["click_accuracy_low"], row["click_accuracy_high"])
    return f"{name} hits {percent(row['click_accuracy'])} %" + (f" {interval}" if interval else "")


def _gap(differences: pd.DataFrame, name: str, other: str) -> Gap:
    forwards = differences[(differences["experiment"] == name) & (differences["baseline"] == other)]
    if len(forwards):
        row = forwards.iloc[0]
        return Gap(name, other, int(row["users"]), row["difference"], row["low"], row["high"])
    row = differences[(differences["experiment"] == other) & (differences["baseline"] == name)].iloc[0]
    return Gap(name, other, int(row["users"]), -row["difference"], -row["high"], -row["low"])


def _words(gap: Gap) -> str:
    size = points(abs(gap.difference)).removeprefix("+")
    if is_missing(gap.low):
        if gap.difference == 0:
            return f"{gap.experiment} and {gap.other} hit equally often"
        side = "above" if gap.difference > 0 else "below"
        reason = "one user allows no interval" if gap.users < 2 else "all users alike, which allows no interval"
        return f"{gap.experiment} is {size} points {side} {gap.other} ({reason})"
    if gap.low > 0:
        return f"{gap.experiment} beats {gap.other} by {size} points {percent_interval(gap.low, gap.high)}"
    if gap.high < 0:
        return f"{gap.experiment} falls behind {gap.other} by {size} points {percent_interval(-gap.high, -gap.low)}"
    return (
        f"{gap.experiment} and {gap.other} cannot be told apart "
        f"({points(gap.difference)} points {points_interval(gap.low, gap.high)})"
    )
