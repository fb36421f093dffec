"""The figure of every user's accuracy in every experiment."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from usertune.evaluation import table_names
from usertune.reporting.figures.axes import highest, metric_label, metric_scale
from usertune.reporting.figures.sheet import Subject, new_figure, short_names

TITLE = "Accuracy by user"
ALTERNATIVE = (
    "Dot plot. At the top, the accuracy (the primary metric) of each experiment over all users, with its interval; "
    "below, one row for each test user with a mark for each experiment. The numbers are in the tables Summary and "
    "Users."
)
CAPTION = (
    "{metric} of {users} with {samples}. Top: mean over users of each experiment, each user with equal weight, and its "
    "{interval} (Student's t over users). Below: each user, sorted by {reference}; up to 40 users are named, and with "
    "up to 8 experiments lines are Wilson intervals at the same level, which take a user's samples as independent."
)
READS = ()
NEEDS = ()

# With more users, ranks replace their names, and the marks of a user are in one line.
MOST_NAMED = 40
# With more experiments, the intervals of single users would hide one another.
MOST_WITH_INTERVALS = 8
# Inches.
ROW_OF_ALL, MARK, HEAD, FOOT = 0.15, 0.043, 0.1, 0.55


def draw(subject: Subject) -> Figure:
    """Draw the primary metric of each experiment over all users, and below for each user, with intervals.

    Raises:
        UserError: the table of users or the summary is missing, malformed or of another study.
    """
    names, primary = subject.design.names, subject.primary
    grid, summary = subject.by_user, subject.table(table_names.SUMMARY).set_index("experiment").loc[names]
    named = len(grid) <= MOST_NAMED
    row = max(0.15, MARK * (len(names) + 1.5)) if named else 0.075
    heights = [ROW_OF_ALL * (len(names) + 1), row * (len(grid) + 1)]
    figure = new_figure(HEAD + sum(heights) + FOOT, subject.columns)
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    _draw_all(top, subject, summary)
    if named:
        reach = _draw_named(below, subject, grid, summary["confidence"].iloc[0])
    else:
        reach = _draw_ranked(below, subject, grid)
    ends = summary[[primary.name, f"{primary.name}_high"]].to_numpy(dtype=float)
    if primary.unit == "%":
        below.set_xlim(0, highest(primary, reach, ends))
    metric_scale(below.xaxis, primary, most=5 if subject.narrow else 10)
    below.set_xlabel(metric_label(primary))
    return figure


def _draw_all(axes: Axes, subject: Subject, summary: pd.DataFrame) -> None:
    names, primary = subject.design.names, subject.primary
    for place, name in enumerate(names):
        style, found = subject.styles[name], summary.loc[name]
        low, high = found[f"{primary.name}_low"], found[f"{primary.name}_high"]
        axes.plot([low, high], [place, place], color=style.colour, linewidth=1.6, zorder=2)
        axes.plot(
            [found[primary.name]], [place], color=style.colour, marker=style.marker, markersize=5.5 * style.scale,
            markeredgecolor="white", markeredgewidth=0.5, linestyle="none", zorder=3, clip_on=False, label=name,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), short_names(names, 16 if subject.narrow else 30))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="both", length=0, labelbottom=False)
    axes.spines["bottom"].set_visible(False)
    axes.grid(axis="y", visible=False)


def _draw_named(axes: Axes, subject: Subject, grid: pd.DataFrame, confidence: float) -> np.ndarray:
    """Draw users with their names; return the values and ends of intervals."""
    names = subject.design.names
    for place in range(0, len(grid), 2):
        axes.axhspan(place - 0.5, place + 0.5, color="#f4f5f7", linewidth=0, zorder=0)
    lows, highs = intervals(subject, grid, confidence) if len(names) <= MOST_WITH_INTERVALS else (None, None)
    for index, name in enumerate(names):
        style = subject.styles[name]
        places = np.arange(len(grid)) + (0.72 * ((index + 0.5) / len(names) - 0.5) if len(names) > 1 else 0)
        if lows is not None and highs is not None:
            axes.hlines(places, lows[name], highs[name], color=style.colour, linewidth=0.6, alpha=0.6, zorder=2)
        axes.plot(
            grid[name], places, color=style.colour, marker=style.marker, markersize=3.8 * style.scale,
            markeredgecolor="white", markeredgewidth=0.35, linestyle="none", zorder=3, clip_on=False, label=name,
        )  # fmt: skip
    axes.set_yticks(range(len(grid)), short_names(grid.index, 10 if subject.narrow else 16))
    axes.set_ylim(len(grid) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("test user")
    axes.grid(axis="y", visible=False)
    return (grid if highs is None else grid.combine(highs, np.fmax)).to_numpy()


def _draw_ranked(axes: Axes, subject: Subject, grid: pd.DataFrame) -> np.ndarray:
    """Draw users by their rank; return the values."""
    ranks = np.arange(1, len(grid) + 1)
    axes.hlines(ranks, grid.min(axis=1), grid.max(axis=1), color="#d5d8de", linewidth=0.8, zorder=1)
    for name in subject.design.names:
        style = subject.styles[name]
        axes.plot(
            grid[name], ranks, color=style.colour, marker=style.marker, markersize=3.2 * style.scale,
            markeredgecolor="white", markeredgewidth=0.3, linestyle="none", zorder=3, clip_on=False, label=name,
        )  # fmt: skip
    ticks = MaxNLocator(9, integer=True).tick_values(1, len(grid))
    axes.set_yticks([1, *(tick for tick in ticks if 1 < tick <= len(grid))])
    axes.set_ylim(len(grid) + 1, 0)
    axes.set_ylabel(f"rank of the {len(grid)} test users by {short_names([subject.reference], 20)[0]}")
    axes.grid(axis="y", visible=False)
    return grid.to_numpy()


def intervals(subject: Subject, grid: pd.DataFrame, confidence: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the lower and upper ends of the intervals of single users, NaN where there is none.

    They are those of Wilson (1927, J. Am. Stat. Assoc. 22:209) for a fraction of n samples::

        (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)

    Metrics whose samples are other numbers than 0 and 1 have none.
    """
    samples = subject.table(table_names.SAMPLES)
    values = samples[subject.primary.column]
    if not values.dropna().isin([0, 1]).all():
        nothing = grid * math.nan
        return nothing, nothing
    own = subject.design.names[0]
    # The seeds of a group answer the same samples.
    seeds = len(subject.members[own])
    counts = values[samples["experiment"] == own].groupby(samples["user"]).count().loc[grid.index] / seeds
    squared = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    over = squared / counts.mask(counts == 0)
    centre = grid.add(over / 2, axis=0).div(1 + over, axis=0)
    inner = (grid * (1 - grid)).mul(over, axis=0).add(over**2 / 4, axis=0)
    half = inner.pow(0.5).div(1 + over, axis=0)
    return centre - half, centre + half
