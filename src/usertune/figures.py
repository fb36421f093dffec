"""Figures: the same study in pictures that stay readable for colour-blind readers and in grey print.

Seaborn draws into figures that pyplot's global state never sees, and equal inputs give equal SVG bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from usertune import tables
from usertune.errors import UserError
from usertune.files import atomic_writer
from usertune.presentation import Look, looks
from usertune.score import threshold_label, thresholds_of
from usertune.tables import Design, design_of, read_table, require_experiments

# Up to so many users each one has its name on the axis and its experiments side by side.
MAX_NAMED_USERS = 24
LARGEST_INSIDE_DISTANCE = 1000 * math.sqrt(2)
DISTANCE_STEP = 2.0
PNG_DOTS_PER_INCH = 200
INK, PALE = "#22262e", "#8a919e"

STYLE = {
    **sns.axes_style(
        "ticks",
        rc={
            "axes.edgecolor": PALE,
            "axes.grid": True,
            "axes.labelcolor": INK,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "font.family": ["DejaVu Sans"],
            "grid.color": "#e6e8ec",
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        },
    ),
    "axes.linewidth": 0.8,
    "font.size": 9.5,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "usertune",
}


@dataclass(frozen=True)
class Sources:
    """What a figure may be drawn from: the folder of tables, and the training log of each trained experiment."""

    tables: Path
    training_logs: Mapping[str, Path]


def make_figure(recipe: Mapping[str, Any], name: str, sources: Sources, svg: Path, png: Path) -> None:
    """Draw the figure called ``name`` (a key of `FIGURES`) and write it as SVG and as PNG.

    Args:
        recipe: keys ``experiments``, ``users`` and ``thresholds`` as for the comparison.

    Raises:
        UserError: there is no such figure, or a table or log is missing, foreign or malformed.
    """
    if name not in FIGURES:
        raise UserError(f"figure: {name!r} is not known; use one of: {', '.join(FIGURES)}")
    design, thresholds = design_of(recipe), thresholds_of(recipe)
    with mpl.rc_context():
        # A matplotlibrc of the person who runs this must not change the figure.
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = FIGURES[name](design, thresholds, sources)
        FigureCanvasAgg(figure)
        for path, options in (
            (svg, {"format": "svg", "metadata": {"Date": None, "Creator": None}}),
            (png, {"format": "png", "dpi": PNG_DOTS_PER_INCH, "metadata": {"Software": None}}),
        ):
            content = io.BytesIO()
            figure.savefig(content, **options)
            with atomic_writer(path) as handle:
                handle.write(content.getvalue())


def accuracy_by_user(design: Design, thresholds: Sequence[float], sources: Sources) -> Figure:
    """Draw each user's click accuracy in each experiment, and beside it all users together with intervals.

    Users are sorted by the accuracy of the baseline (or else the first experiment), then by their mean. Above
    `MAX_NAMED_USERS` users their names give way to ranks, and a thin line joins the answers of one user.
    """
    users = _table(sources, tables.USERS, design)
    summary = _table(sources, tables.SUMMARY, design)
    grid = users.pivot(index="user", columns="experiment", values="click_accuracy").loc[
        list(design.users), design.names
    ]
    order = grid.assign(_mean=grid.mean(axis=1)).sort_values(
        [design.baseline or design.names[0], "_mean"], ascending=False, kind="stable"
    )
    grid = grid.loc[order.index]
    ranks = pd.Series(range(1, len(grid) + 1), index=grid.index)
    named = len(grid) <= MAX_NAMED_USERS

    figure = Figure(figsize=(9.2, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 0.5 + 0.35 * len(design.names)))
    if named:
        for rank in ranks[::2]:
            left.axvspan(rank - 0.5, rank + 0.5, color="#f4f5f7", linewidth=0, zorder=0)
    else:
        left.vlines(ranks, grid.min(axis=1), grid.max(axis=1), color="#d5d8de", linewidth=1.0, zorder=1)
    look = looks(design)
    points: dict[str, Any] = {
        "hue": "experiment",
        "hue_order": design.names,
        "palette": {name: look[name].colour for name in design.names},
        "markers": [look[name].marker for name in design.names],
        "linestyle": "none",
        "markeredgecolor": "white",
        "zorder": 3,
        "legend": False,
    }
    sns.pointplot(
        users.assign(rank=users["user"].map(ranks)), x="rank", y="click_accuracy", native_scale=True, errorbar=None,
        dodge=0.6 * (1 - 1 / len(design.names)) if named else False, ax=left, **points,
        markersize=5.5 if named else 3.7, markeredgewidth=0.5, clip_on=False,
    )  # fmt: skip
    # Seaborn's own legend leaves invisible artists in a corner, for which the layout would make room.
    for line, name in zip(left.lines, design.names, strict=True):
        line.set_label(name)
    _name_users(left, list(grid.index), named)
    # The median and the range of an estimate and its two bounds are the estimate and the interval.
    sns.pointplot(
        summary.melt("experiment", ["click_accuracy_low", "click_accuracy", "click_accuracy_high"]),
        x="experiment", y="value", order=design.names, estimator="median", errorbar=("pi", 100), capsize=0.2,
        err_kws={"linewidth": 1.6, "zorder": 2}, ax=right, **points, markersize=6.5, markeredgewidth=0.6,
    )  # fmt: skip
    _name_experiments(right, design.names)
    right.set_xlabel(f"all users, {100 * summary['confidence'].iloc[0]:g} % interval")
    highest = max(grid.to_numpy().max(), summary["click_accuracy_high"].max())
    left.set_ylim(0, min(1.0, math.ceil(10 * highest + 0.5) / 10))
    left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    left.set_ylabel(f"click accuracy (within {threshold_label(thresholds[0])})")
    left.grid(axis="x", visible=False)
    _legend_above(left, len(design.names))
    return figure


def distance_distribution(design: Design, thresholds: Sequence[float], sources: Sources) -> Figure:
    """Draw, for each experiment, the share of all samples that lie within a distance of the target.

    Unparsed answers lie within no distance, so a curve ends at the experiment's parse rate (less the answers
    further away than the diagonal of the 0-1000 square). Thresholds are marked, the primary one as a full line.
    """
    samples = _table(sources, tables.SAMPLES, design)
    figure = Figure(figsize=(9.2, 4.3), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(0, LARGEST_INSIDE_DISTANCE + DISTANCE_STEP, DISTANCE_STEP)
    look = looks(design)
    rounded_up = np.ceil(samples["distance"] / DISTANCE_STEP) * DISTANCE_STEP
    for name in design.names:
        # Weights that stand for shares of all samples, unparsed ones too: these have no step but do count.
        shares = rounded_up[samples["experiment"] == name].value_counts(normalize=True, dropna=False)
        sns.ecdfplot(
            x=steps, weights=shares.reindex(steps, fill_value=0), stat="count", ax=axes, label=name,
            color=look[name].colour, linestyle=look[name].dashes, linewidth=1.8, marker=look[name].marker,
            markevery=(36, 70), markersize=5, markeredgecolor="white",
        )  # fmt: skip
    for index, threshold in enumerate(thresholds):
        axes.axvline(threshold, color=PALE, linewidth=1.0, linestyle="-" if index == 0 else ":", zorder=1)
        axes.annotate(
            threshold_label(threshold), (threshold, 1), xycoords=("data", "axes fraction"), xytext=(3, -3),
            textcoords="offset points", va="top", fontsize=8, color="#5f6672",
        )  # fmt: skip
    axes.set_xlim(0, LARGEST_INSIDE_DISTANCE)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("L2 distance to the target (0\N{EN DASH}1000 space)")
    axes.set_ylabel("share of all samples within the distance")
    _legend_above(axes, len(design.names))
    return figure


def loss_curves(design: Design, _thresholds: Sequence[float], sources: Sources) -> Figure:
    """Draw the training loss (pale: every step, strong: running mean) and the validation loss (markers)."""
    known = [name for name in design.names if name in sources.training_logs]
    if foreign := sorted(set(sources.training_logs) - set(known)):
        raise UserError(f"training logs: {', '.join(foreign)} is no experiment of this study; leave its log out")
    figure = Figure(figsize=(9.2, 4.3), layout="constrained")
    axes = figure.subplots()
    if not known:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no trained experiment in this study", ha="center", va="center", fontsize=13, color=PALE)
        return figure
    look = looks(design)
    for name in known:
        _draw_losses(axes, name, look[name], _read_log(sources.training_logs[name]))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (mean per answer token)")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_above(axes, 2 * len(known))
    return figure


FIGURES = {
    "accuracy_by_user": accuracy_by_user,
    "distance_distribution": distance_distribution,
    "loss_curves": loss_curves,
}


def _table(sources: Sources, name: str, design: Design) -> pd.DataFrame:
    path = sources.tables / name
    table = read_table(path)
    require_experiments(table, path, design.names)
    return table


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


def _draw_losses(axes: Axes, name: str, look: Look, log: pd.DataFrame) -> None:
    train, validation = (log[log["split"] == split] for split in ("train", "validation"))
    window = max(1, len(train) // 50)
    train = train.assign(smooth=train["loss"].rolling(window, min_periods=1, center=True).mean())
    line: dict[str, Any] = {"x": "step", "estimator": None, "color": look.colour, "ax": axes}
    if window > 1:
        sns.lineplot(train, y="loss", alpha=0.22, linewidth=0.7, **line)
    sns.lineplot(train, y="smooth", linewidth=1.6, linestyle=look.dashes, label=f"{name}, training", **line)
    sns.lineplot(
        validation, y="loss", marker=look.marker, markersize=5.5, linewidth=0.9, markeredgewidth=0.6,
        label=f"{name}, validation", **line,
    )  # fmt: skip


def _read_log(path: Path) -> pd.DataFrame:
    try:
        log = pd.read_csv(path, dtype={"split": str, "step": float, "loss": float})
        return log[["step", "split", "loss"]]
    except FileNotFoundError:
        raise UserError(f"{path}: this training log does not exist; run snakemake again so that it is made") from None
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path}: not a training log with the columns step, split and loss ({error}); "
            "delete the experiment's manifest and run snakemake again"
        ) from None


def _legend_above(axes: Axes, entries: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=min(entries, 5), borderaxespad=0, handletextpad=0.5)
