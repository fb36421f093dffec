"""The matrix of adapters: each test user answered by their own adapters, and by those of every other one."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import pandas as pd

from usertune.core.formatting import is_missing, no_interval, p_equals
from usertune.evaluation.paired import test_in_words
from usertune.evaluation.recipe import CompareRecipe
from usertune.evaluation.statistics.intervals import mean_of_users
from usertune.evaluation.statistics.sign_flip import sign_flip_test
from usertune.evaluation.tables import records
from usertune.tasks.metrics import Metric

# Before the user whose adapters answered, in the names of columns.
ADAPTER = "adapter_"


def matrix_table(recipe: CompareRecipe, primary: Metric, samples: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each matrix and test user, with the primary metric by the adapters of each test user.

    ``adapter_<user>`` is the metric over the user's samples, answered by the adapters of that user; where it is the
    same user, it is that of ``experiment``. ``own`` is this value, ``others`` the mean of the other ones, and
    ``difference`` the first without the second.

    Args:
        recipe: the matrices, and the users.
        primary: the metric.
        samples: the rows of all experiments.
    """
    by_user = samples.groupby(["experiment", "user"], sort=False)[primary.column].mean()
    counts = samples[samples["experiment"] == recipe.names[0]].groupby("user")["id"].count()
    rows = []
    for group, matrix in recipe.matrices.items():
        for user in recipe.users:
            values = {user: by_user[matrix.own, user]}
            values |= {owners[user]: by_user[name, user] for name, owners in matrix.owners.items()}
            known = [value for owner, value in values.items() if owner != user and not is_missing(value)]
            others = fmean(known) if known else None
            row: dict[str, Any] = {
                "group": group,
                "experiment": matrix.own,
                "user": user,
                "samples": int(counts[user]),
                "own": values[user],
                "others": others,
                "difference": None if others is None else values[user] - others,
            }
            rows.append(row | {f"{ADAPTER}{owner}": values[owner] for owner in recipe.users})
    return pd.DataFrame(rows)


def matrix_sentence(rows: pd.DataFrame, primary: Metric, confidence: float) -> str:
    """Return what the matrix of one group says, in a sentence: own adapters, those of others, and the difference.

    All are means over users with equal weight for each. The interval of the difference is Student's t with one degree
    of freedom less than users, and p is that of `usertune.evaluation.statistics.sign_flip`.

    Args:
        rows: the rows of the group, see `matrix_table`.
        primary: the metric.
        confidence: level of the interval.
    """
    known = rows.dropna(subset="difference")
    name = f"{rows['experiment'].iloc[0]}, {primary.title}"
    if known.empty:
        return f"{name}: no user has a value by own adapters and by those of others."
    reach = primary.bounds[1] - primary.bounds[0]
    found, test = (
        mean_of_users(known["difference"], confidence, (-reach, reach)),
        sign_flip_test(list(known["difference"])),
    )
    interval = primary.difference_interval(found.low, found.high) or f"[{no_interval(len(known))}]"
    own, others = (f"{primary.text(fmean(known[key]))} {primary.unit}".rstrip() for key in ("own", "others"))
    p = "" if test.p is None else f"{p_equals(test.p)}, "
    return (
        f"{name}, mean over {len(known)} users: {own} by their own adapters, {others} by those of the others; own "
        f"minus others {primary.difference(found.mean)} {interval} ({100 * confidence:g} % interval of Student's t "
        f"over users; {p}{test_in_words(test, len(known))})."
    )


def matrix_rows(rows: pd.DataFrame, primary: Metric) -> list[dict[str, Any]]:
    """Return the rows of one group as people read them; a cell is (value, whether it is by the user's own adapters)."""
    owners = owners_of(rows)
    return [
        {
            "user": row["user"],
            "samples": f"{row['samples']:,.0f}",
            "cells": [(primary.text(row[f"{ADAPTER}{owner}"]), owner == row["user"]) for owner in owners],
            "others": primary.text(row["others"]),
            "difference": "" if is_missing(row["difference"]) else primary.difference(row["difference"]),
        }
        for row in records(rows)
    ]


def owners_of(rows: pd.DataFrame) -> list[str]:
    """Return the users whose adapters answered, in the order of the columns."""
    return [str(name).removeprefix(ADAPTER) for name in rows if str(name).startswith(ADAPTER)]


def matrix_note(primary: Metric) -> str:
    """Return a paragraph that says how to read the table."""
    condition = f" ({primary.condition})" if primary.condition else ""
    return (
        f"{primary.heading[:1].upper()}{primary.heading[1:]}{condition} of each test user (row), by the adapters of "
        "each test user (column), on the same samples. Bold: the user's own, for each fold the adapter that has not "
        "seen it. If the bold values are no better than the others of their rows, the adapters know the task, but not "
        "their user."
    )


def matrix_markdown(table: pd.DataFrame, primary: Metric, confidence: float) -> str:
    """Return the matrices, rounded, as Markdown tables with a sentence on each."""
    parts = []
    for group, rows in table.groupby("group", sort=False):
        header = ["user", "samples", *(f"of {owner}" for owner in owners_of(rows)), "mean of others", "own - others"]
        shown = pd.DataFrame([_cells(row) for row in matrix_rows(rows, primary)], columns=header)
        sides = ["left", *["right"] * (len(header) - 1)]
        parts += [f"`{group}`: {matrix_sentence(rows, primary, confidence)}"]
        parts += [shown.to_markdown(index=False, tablefmt="pipe", disable_numparse=True, colalign=sides)]
    return "\n\n".join([*parts, matrix_note(primary)]) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    values = [f"**{value}**" if own else value for value, own in row["cells"]]
    return [row["user"], row["samples"], *values, row["others"], row["difference"]]
