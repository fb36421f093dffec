"""The comparison in one sentence that claims no more than the intervals support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from usertune.core.formatting import is_missing
from usertune.evaluation.groups import chosen_experiments
from usertune.evaluation.recipe import ComparisonDesign
from usertune.evaluation.tables import records
from usertune.tasks.metrics import Metric

MOST_COMPARED = 3


@dataclass(frozen=True)
class Gap:
    """How far ``experiment`` is above ``other`` in the primary metric, on the same samples."""

    experiment: str
    other: str
    users: int
    difference: float
    low: float
    high: float


def headline(
    design: ComparisonDesign,
    primary: Metric,
    summary: pd.DataFrame,
    differences: pd.DataFrame,
    groups: pd.DataFrame | None = None,
) -> str:
    """Return the main result as one sentence.

    A group of experiments takes part as its chosen, or only, setting, the mean over seeds; its experiments do not take
    part, because the best of them on the test users would be chosen by the test.

    The best experiments (up to `MOST_COMPARED`) are compared with the baseline, then the best two that are not
    the baseline with each other. "Beats" and "falls behind" are used only if the interval of the paired difference
    excludes zero.

    Args:
        design: the experiments.
        primary: the metric that is compared.
        summary, differences, groups: the tables of those names, see `usertune.evaluation.compare`.
    """
    rows = summary.set_index("experiment").loc[design.names]
    column = f"{primary.name}_samples" if f"{primary.name}_samples" in rows else "samples"
    users, samples = int(rows["users"].iloc[0]), int(rows[column].iloc[0])
    start = f"On {samples:,} samples of {users} user{'' if users == 1 else 's'}, "
    values, explained = _values(design, primary, rows[primary.name], groups)
    ascending = primary.better == "lower"
    ranked = [str(name) for name in values.sort_values(ascending=ascending, kind="stable").index]
    others = [name for name in ranked if name != design.baseline]
    gaps = []
    if design.baseline is not None:
        gaps = [_gap(differences, name, design.baseline) for name in others[:MOST_COMPARED]]
    if len(others) > 1:
        gaps.append(_gap(differences, others[0], others[1]))
    if not gaps:
        alone = ranked[0] if ranked else design.names[0]
        return start + _alone(alone, primary, values, rows) + "." + explained
    level = f"{100 * rows['confidence'].iloc[0]:g} %"
    brackets = "" if all(is_missing(gap.low) for gap in gaps) else f" (in brackets: {level} intervals)"
    return start + "; ".join(_words(gap, primary) for gap in gaps) + brackets + "." + explained


def _values(
    design: ComparisonDesign, primary: Metric, values: pd.Series, groups: pd.DataFrame | None
) -> tuple[pd.Series, str]:
    """Return the values of what takes part, and a sentence on each group."""
    if groups is None:
        return values, ""
    grouped = {item.name for item in design.experiments if item.group is not None and item.name != design.baseline}
    found, sentences = values.drop(index=sorted(grouped)), []
    chosen = chosen_experiments(design, groups)
    for row in records(groups):
        if chosen.get(row["group"]) == tuple(row["experiments"].split(" ")):
            found[row["group"]] = row[primary.name]
            what = "other users' adapters" if row["group"] in design.matrix_groups else "seeds"
            seeds = f"the mean over {row['seeds']:.0f} {what}" if row["seeds"] > 1 else "one experiment"
            setting = f", with {row['setting']}, chosen by validation" if row["selected"] == 1 else ""
            sentences.append(f" {row['group']} is {seeds}{setting}.")
    unclear = [group for group in design.groups if group not in chosen]
    sentences += [f" No setting of {group} takes part, because none is chosen by validation." for group in unclear]
    return found, "".join(sentences)


def _alone(name: str, primary: Metric, values: pd.Series, rows: pd.DataFrame) -> str:
    if name not in rows.index:
        return f"{name} has a {primary.title} of {primary.text(values[name])} {primary.unit}".rstrip()
    row: Any = rows.loc[name]
    value = f"{primary.text(row[primary.name])} {primary.unit}".rstrip()
    interval = primary.interval(row[f"{primary.name}_low"], row[f"{primary.name}_high"])
    return f"{name} has a {primary.title} of {value} {interval}".rstrip()


def _gap(differences: pd.DataFrame, name: str, other: str) -> Gap:
    forwards = differences[(differences["experiment"] == name) & (differences["baseline"] == other)]
    if len(forwards):
        row = forwards.iloc[0]
        return Gap(name, other, int(row["users"]), row["difference"], row["low"], row["high"])
    row = differences[(differences["experiment"] == other) & (differences["baseline"] == name)].iloc[0]
    return Gap(name, other, int(row["users"]), -row["difference"], -row["high"], -row["low"])


def _words(gap: Gap, primary: Metric) -> str:
    unit = "points" if primary.unit == "%" else f"{primary.unit} in {primary.title}".lstrip()
    size = f"{primary.text(abs(gap.difference))} {unit}"
    if is_missing(gap.low):
        if gap.difference == 0:
            return f"{gap.experiment} and {gap.other} have equal {primary.title}"
        side = "above" if gap.difference > 0 else "below"
        reason = "one user allows no interval" if gap.users < 2 else "all users alike, which allows no interval"
        return f"{gap.experiment} is {size} {side} {gap.other} ({reason})"
    if gap.low > 0 or gap.high < 0:
        verb = "beats" if (gap.low > 0) == (primary.better == "higher") else "falls behind"
        interval = primary.interval(*sorted((abs(gap.low), abs(gap.high))))
        return f"{gap.experiment} {verb} {gap.other} by {size} {interval}"
    return (
        f"{gap.experiment} and {gap.other} cannot be told apart "
        f"({primary.difference(gap.difference)} {unit} {primary.difference_interval(gap.low, gap.high)})"
    )
