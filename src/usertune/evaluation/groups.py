"""Groups of experiments, such as those of a sweep: settings over seeds, and the best setting by validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from usertune.core.formatting import is_missing, number
from usertune.evaluation.recipe import ComparisonDesign
from usertune.evaluation.table_names import MATRIX_MD
from usertune.evaluation.tables import records
from usertune.tasks.metrics import Metric

ONE_SETTING = "one setting"


def validation_loss(training: Mapping[str, Any]) -> float | None:
    """Return the validation loss of the weights that an experiment uses, from the manifest of its training."""
    steps, last = training.get("steps"), training.get("final_validation_loss")
    found: float | None = last if training.get("kept_step", steps) == steps else training.get("kept_validation_loss")
    return found


def chosen_experiments(design: ComparisonDesign, groups: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Return the experiments that stand for each group in comparisons: the seeds of its chosen, or only, setting."""
    found = {}
    for row in records(groups):
        only = len(design.groups[row["group"]]) == 1
        if only or (not is_missing(row["selected"]) and row["selected"] == 1):
            found[row["group"]] = tuple(row["experiments"].split(" "))
    return found


def values_of_samples(
    design: ComparisonDesign, column: str, samples: pd.DataFrame, chosen: Mapping[str, Sequence[str]]
) -> dict[str, pd.Series]:
    """Return ``{experiment or group: value of each sample}``, all in the same order of samples.

    The value of a group is the mean over the seeds that stand for it (see `chosen_experiments`), over those that have
    a value.
    """
    own = {name: frame[column].reset_index(drop=True) for name, frame in samples.groupby("experiment", sort=False)}
    found = {name: own[name] for name in design.names}
    return found | {
        group: pd.concat([own[name] for name in names], axis=1).mean(axis=1) for group, names in chosen.items()
    }


def groups_markdown(groups: pd.DataFrame, primary: Metric) -> str:
    """Return the table of groups, rounded, as a Markdown table with a note on how to read it."""
    if groups.empty:
        return f"No group has settings or seeds; see {MATRIX_MD}.\n"
    shown = pd.DataFrame([group_row(row, primary) for row in records(groups)]).drop(columns="experiments")
    by_accuracy = [f"validation {primary.heading}"] if validation_column(primary) in groups else []
    shown.columns = pd.Index(
        ["group", "setting", "seeds", primary.heading, "sd over seeds", "over samples", "sd over seeds",
         "sd of users", "sd of seeds", "sd of the rest", "validation loss", *by_accuracy, "chosen"]
    )  # fmt: skip
    shown["group"] = [f"`{name}`" for name in shown["group"]]
    sides = ["left", "left", *["right"] * (len(shown.columns) - 2)]
    table = shown.to_markdown(index=False, tablefmt="pipe", disable_numparse=True, colalign=sides)
    return f"{table}\n\n{groups_note(primary)}\n"


def group_row(row: Mapping[str, Any], primary: Metric) -> dict[str, str]:
    """Return a row of `usertune.evaluation.group_table.groups_table` as people read it, each cell a text."""
    missing = is_missing(row["selected"])
    cells = {
        "group": row["group"],
        "setting": row["setting"] or ONE_SETTING,
        "experiments": row["experiments"],
        "seeds": f"{row['seeds']:.0f}",
    }
    own = [f"{primary.name}{end}" for end in ("", "_sd", "_micro", "_micro_sd")]
    for key in (*own, "sd_users", "sd_seeds"):
        cells[key] = primary.text(row[key])
    cells["sd_residual"] = primary.text(row["sd_residual"])
    cells["validation_loss"] = number(row["validation_loss"], 4)
    if validation_column(primary) in row:
        cells["validation_value"] = _on_validation_users(row, primary)
    cells["selected"] = "" if missing else "chosen" if row["selected"] == 1 else "no"
    return cells


def validation_column(primary: Metric) -> str:
    """Return the name of the column with the primary metric on validation users."""
    return f"validation_{primary.name}"


def _on_validation_users(row: Mapping[str, Any], primary: Metric) -> str:
    value = row[validation_column(primary)]
    if is_missing(value):
        return primary.text(None)
    users, samples = (int(row[f"validation_{what}"]) for what in ("users", "samples"))
    return f"{primary.text(value)} ({users:,} user{'s' * (users != 1)}, {samples:,} sample{'s' * (samples != 1)})"


def groups_note(primary: Metric) -> str:
    """Return a paragraph that explains the numbers of the table of groups."""
    unit = "percentage points" if primary.unit == "%" else primary.title
    return (
        f"Each row is one setting, over its seeds: the mean of their {primary.title}, and its standard deviation over "
        "seeds, with equal weight for each user, then (over samples) with equal weight for each sample. "
        "The last three standard deviations split the variation of the values of single users, in "
        f"{unit}: users differ from one another with every seed (users); a seed is better or worse for all users "
        "(seeds); a seed helps one user and hurts another, or a user has few samples (the rest). Estimates below zero "
        "are shown as zero. The best setting of a group is chosen by validation users, never by test users: by the "
        f"validation loss, or by the mean over validation users of their {primary.title}; of equal settings the one "
        "that the study lists first. In comparisons and figures the group is the mean over the seeds of that setting."
    )
