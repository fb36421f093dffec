"""The figure of every user's click accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from usertune.evaluation import table_names
from usertune.reporting.figures.sheet import Subject, legend_above, new_figure, percent_scale
from usertune.tasks.metrics import threshold_label

TITLE = "Accuracy by user"
ALTERNATIVE = (
    "Dot plot of every test user's accuracy (the primary metric) in each experiment, beside the accuracy over all "
    "users with its interval. The numbers are in the tables Summary and Users."
)
CAPTION = (
    "Each column is a test user, sorted by accuracy in the baseline (or the first experiment); a mark is one "
    "experiment's mean over that user's samples. On the right, the mean over users, each with equal weight, and its "
    "confidence interval."
)
READS = ()

# Up to this number of users, the axis shows their names and the experiments are side by side.
MAX_NAMED_USERS = 24


def draw(subject: Subject) -> Figure:
    """Draw each user's value of the primary metric in each experiment, and beside it all users together with intervals.

    Users are sorted by the value of the baseline (or else the first experiment), then by their mean. Above
    `MAX_NAMED_USERS` users, ranks replace their names, and a thin line joins the marks of one user.

    Raises:
        UserError: the table of users or the summary is missing, malformed or of another study.
    """
    design, style, primary = subject.design, subject.styles, subject.metrics[0]
    users = subject.table(table_names.USERS)
    summary = subject.table(table_names.SUMMARY)
    grid = users.pivot(index="user", columns="experiment", values=primary.name).loc[list(design.users), design.names]
    order = grid.assign(_mean=grid.mean(axis=1)).sort_values(
        [design.baseline or design.names[0], "_mean"], ascending=False, kind="stable"
    )
    grid = grid.loc[order.index]
    ranks = pd.Series(range(1, len(grid) + 1), index=grid.index)
    named = len(grid) <= MAX_NAMED_USERS

    figure = new_figure(height=3.9)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 0.5 + 0.35 * len(design.names)))
    _tell_users_apart(left, grid, ranks, named)
    points: dict[str, Any] = {
        "hue": "experiment",
        "hue_order": design.names,
        "palette": {name: style[name].colour for name in design.names},
        "markers": [style[name].marker for name in design.names],
        "linestyle": "none",
        "markeredgecolor": "white",
        "zorder": 3,
        "legend": False,
    }
    sns.pointplot(
        users.assign(rank=users["user"].map(ranks)), x="rank", y=primary.name, native_scale=True, errorbar=None,
        dodge=0.6 * (1 - 1 / len(design.names)) if named else False, ax=left, **points,
        markersize=5.5 if named else 3.7, markeredgewidth=0.5, clip_on=False,
    )  # fmt: skip
    # Seaborn's own legend leaves invisible artists in a corner, and the layout would reserve space for them.
    for line, name in zip(left.lines, design.names, strict=True):
        line.set_label(name)
    _name_users(left, list(grid.index), named)
    # The median and the range of an estimate and its two bounds are the estimate and the interval.
    sns.pointplot(
        summary.melt("experiment", [f"{primary.name}_low", primary.name, f"{primary.name}_high"]),
        x="experiment", y="value", order=design.names, estimator="median", errorbar=("pi", 100), capsize=0.2,
        err_kws={"linewidth": 1.6, "zorder": 2}, ax=right, **points, markersize=6.5, markeredgewidth=0.6,
    )  # fmt: skip
    _name_experiments(right, design.names)
    right.set_xlabel(f"all users, {100 * summary['confidence'].iloc[0]:g} % interval")
    if primary.unit == "%":
        highest = max(np.nanmax(grid.to_numpy()), summary[f"{primary.name}_high"].max())
        left.set_ylim(0, min(1.0, math.ceil(10 * highest + 0.5) / 10))
        percent_scale(left)
    within = "" if primary.threshold is None else f" (within {threshold_label(primary.threshold)})"
    left.set_ylabel(f"{primary.title}{within}")
    left.grid(axis="x", visible=False)
    legend_above(left, len(design.names))
    return figure


def _tell_users_apart(axes: Axes, grid: pd.DataFrame, ranks: pd.Series, named: bool) -> None:
    if named:
        for rank in ranks[::2]:
            axes.axvspan(rank - 0.5, rank + 0.5, color="#f4f5f7", linewidth=0, zorder=0)
    else:
        axes.vlines(ranks, grid.min(axis=1), grid.max(axis=1), color="#d5d8de", linewidth=1.0, zorder=1)


def _name_users(axes: Axes, users: Sequence[str], named: bool) -> None:
    axes.set_xlim(0.5, len(users) + 0.5)
    if named:
        crowded = sum(len(user) + 2 for user in users) > 80
        axes.set_xticks(
            range(1, len(users) + 1), users, rotation=45 if crowded else 0, ha="right" if crowded else "center"
        )
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("test user")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(f"rank of the {len(users)} test users")


def _name_experiments(axes: Axes, names: Sequence[str]) -> None:
    long = len(names) > 4 or max(map(len, names)) > 8
    axes.set_xticks(range(len(names)), names, rotation=45 if long else 0, ha="right" if long else "center", fontsize=8)
    axes.tick_params(axis="both", length=0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", visible=False)
