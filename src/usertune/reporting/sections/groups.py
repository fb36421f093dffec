"""Rows and sentences of the report's sections on the hypothesis and on groups of experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from usertune.core.formatting import is_missing, no_interval, number, p_text, percent
from usertune.evaluation.choice import are_equal
from usertune.evaluation.groups import ONE_SETTING, group_row, validation_column
from usertune.evaluation.statistics.variance import VarianceSplit
from usertune.evaluation.tables import records
from usertune.tasks.metrics import Metric


def comparison_rows(hypothesis: pd.DataFrame, primary: Metric) -> list[dict[str, Any]]:
    """Return the rows of the comparisons that are corrected together, as people read them."""
    rows = []
    for row in records(hypothesis):
        interval = primary.difference_interval(row["low"], row["high"])
        rows.append(
            {
                "experiment": row["experiment"],
                "baseline": row["baseline"],
                "users": f"{row['users']:.0f}",
                "difference": primary.difference(row["difference"]),
                "interval": interval or f"[{no_interval(int(row['users']))}]",
                "p": p_text(row["p"]),
                "p_holm": p_text(row["p_holm"]),
                "test": row["test"],
                "micro": primary.difference(row["micro"]),
                "micro_interval": primary.difference_interval(row["micro_low"], row["micro_high"]),
                "who": f"{row['helped']:.0f} / {row['hurt']:.0f}" if row["samples"] else "",
                "worst": primary.difference(row["worst_decile"]),
                "detectable": primary.text(row["smallest_detectable"]),
            }
        )
    return rows


def comparisons_note(primary: Metric, hypothesis: pd.DataFrame) -> str:
    """Return a paragraph that says what the numbers of the comparisons are."""
    if hypothesis.empty:
        return ""
    level = f"{100 * hypothesis['confidence'].iloc[0]:g} %"
    unit = "percentage points" if primary.unit == "%" else primary.title
    count = len(hypothesis)
    times = "this comparison alone" if count == 1 else f"these {count} comparisons, by Holm's method"
    return (
        f"Differences of {primary.title} in {unit}: each user's mean difference on the same samples, then the mean "
        f"over users, with equal weight for each user. In brackets: {level} intervals (t with users - 1 degrees of "
        f"freedom). p: two-sided sign-flip test over users. Corrected: for {times}. Over samples: the mean "
        "over samples, in which users with many samples count more. Helped / hurt: users who gain or lose beyond the "
        "chance of their own samples. Worst tenth: the mean of the users who gain least. Detectable: the smallest gain "
        "that such a study finds in 80 % of cases."
    )


def group_rows(groups: pd.DataFrame, primary: Metric) -> list[dict[str, Any]]:
    """Return the rows of the table of groups as people read them; ``is_chosen`` marks the chosen settings."""
    rows = []
    for row in records(groups):
        ends = {"value": "", "sd": "_sd", "micro": "_micro", "micro_sd": "_micro_sd"}
        values = {key: primary.text(row[f"{primary.name}{end}"]) for key, end in ends.items()}
        rows.append({**group_row(row, primary), **values, "is_chosen": _is_chosen(row)})
    return rows


def chosen_names(groups: pd.DataFrame) -> set[str]:
    """Return the experiments of all settings that were chosen among several."""
    rows = [row for row in records(groups) if _is_chosen(row)]
    return {name for row in rows for name in row["experiments"].split(" ")}


def group_sentences(groups: pd.DataFrame, primary: Metric) -> list[str]:
    """Return for each group a sentence on its choice, and one on what varies more: users or seeds."""
    found = []
    for group, rows in groups.groupby("group", sort=False):
        own = records(rows)
        found.append(f"{group}: {_choice(own, primary)} {_variation(own)}".rstrip())
    return found


def _choice(rows: Sequence[Mapping[str, Any]], primary: Metric) -> str:
    best = [row for row in rows if _is_chosen(row)]
    if len(rows) == 1:
        return f"one setting with {_seeds(rows[0])}."
    if not best:
        return (
            f"{len(rows)} settings. None is chosen, because nothing on validation users is measured; which one is best "
            "on the test users says nothing about other users."
        )
    (row,) = best
    value = f"{primary.text(row[primary.name])} {primary.unit}".rstrip()
    return (
        f"of {len(rows)} settings, {_why(row, [other for other in rows if other is not row], primary)}. Its "
        f"{primary.title} on the test users is {value}."
    )


def _why(row: Mapping[str, Any], others: Sequence[Mapping[str, Any]], primary: Metric) -> str:
    """Return what speaks for the chosen setting."""
    if row["selected_by"] == "loss":
        lower, key, what, where = True, "validation_loss", "validation loss", ""
    else:
        lower, key = primary.better == "lower", validation_column(primary)
        users, samples = (int(row[f"validation_{name}"]) for name in ("users", "samples"))
        what = f"mean {primary.title} of {users:,} validation user{'s' * (users != 1)}"
        where = f"; {samples:,} samples"
    own, values = row[key], [other[key] for other in others]
    shown, next_one = (
        number(value, 4) if key == "validation_loss" else f"{primary.text(value)} {primary.unit}".rstrip()
        for value in (own, (min if lower else max)(values))
    )
    side = "lowest" if lower else "highest"
    if equal := [other["setting"] for other in others if are_equal(other[key], own)]:
        return (
            f"{row['setting']} and {' and '.join(equal)} have the same {side} {what} ({shown}; {_seeds(row)}{where}); "
            f"of equal settings the first in the study, here {row['setting']}, is the one that is compared"
        )
    return (
        f"{row['setting']} has the {side} {what} ({shown}; the next has {next_one}; {_seeds(row)}{where}), and is "
        "therefore the one that is compared"
    )


def _variation(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what part of the variation of single users' values is between users, and what between seeds."""
    shown = next(filter(_is_chosen, rows), rows[0])
    parts = [shown[f"sd_{name}"] for name in ("users", "seeds", "residual")]
    if any(is_missing(part) for part in parts):
        return ""
    shares = VarianceSplit(*(part**2 for part in parts)).shares
    setting = "" if len(rows) == 1 else f" ({shown['setting'] or ONE_SETTING})"
    if shares is None:
        return f"All users and seeds have the same value{setting}."
    users, seeds, rest = (percent(share) for share in shares)
    return (
        f"Of the variance of the values of single users{setting}, {users} % is between users, {seeds} % between seeds, "
        f"and {rest} % is the rest: seeds that help one user and hurt another, and the chance of few samples."
    )


def _is_chosen(row: Mapping[str, Any]) -> bool:
    return bool(not is_missing(row["selected"]) and row["selected"] == 1)


def _seeds(row: Mapping[str, Any]) -> str:
    return f"{row['seeds']:.0f} seed{'' if row['seeds'] == 1 else 's'}"
