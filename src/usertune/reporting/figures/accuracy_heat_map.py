"""The figure of every user's accuracy in every experiment, as a heat map."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from usertune.evaluation import table_names
from usertune.reporting.figures.axes import highest, metric_label, metric_scale
from usertune.reporting.figures.sheet import INK, SMALL_FONT, WIDTHS, Subject, new_figure, short_names

TITLE = "Users and experiments"
ALTERNATIVE = (
    "Heat map with a row for each experiment and a column for each test user; the colour is the user's accuracy (the "
    "primary metric). The numbers are in the table Users."
)
CAPTION = (
    "{metric} of each of {users} (columns, sorted by {reference}) in each experiment (rows); the column on the right "
    "is over all users. Lighter is higher; hatched cells have no value. {samples}."
)
READS = ()
NEEDS = ()

ROW = 0.2
# Inches of a cell from which its number is written, and of a column from which its user is named.
ROOM_FOR_NUMBER, ROOM_FOR_NAME = 0.2, 0.1
# Cividis is made for colour-blind readers, and its lightness only rises, so it can be read in grey.
COLOURS = "cividis"


def draw(subject: Subject) -> Figure:
    """Draw the primary metric of each user in each experiment, and of all users, as coloured cells.

    Raises:
        UserError: the table of users or the summary is missing, malformed or of another study.
    """
    names, primary = subject.design.names, subject.primary
    grid, summary = subject.by_user.T, subject.table(table_names.SUMMARY).set_index("experiment").loc[names]
    labels = short_names(names, 14 if subject.narrow else 26)
    room = (WIDTHS[subject.columns] - 0.06 * max(map(len, labels)) - 0.6) / (len(grid.columns) + 2)
    named = room >= ROOM_FOR_NAME
    users = short_names(grid.columns, 8)
    figure = new_figure(0.55 + ROW * max(len(names), 3) + named * 0.055 * max(map(len, users)), subject.columns)
    axes = figure.subplots()
    whole = np.column_stack([grid.to_numpy(dtype=float), np.full(len(names), np.nan), summary[primary.name]])
    top = highest(primary, whole)
    low = 0.0 if primary.unit == "%" else float(np.nanmin(whole))
    _hatch_empty(axes, grid)
    # The empty column between users and all users is not drawn.
    count = len(grid.columns)
    end = 1.03 * count + 0.03
    edges = [*range(count + 1), end, end + 1 + 0.02 * count]
    mesh = axes.pcolormesh(
        edges, range(len(names) + 1), np.ma.masked_invalid(whole), cmap=COLOURS, vmin=low, vmax=top,
        edgecolor="white", linewidth=0.6 if named else 0.15,
    )  # fmt: skip
    middles = (np.asarray(edges[:-1]) + np.asarray(edges[1:])) / 2
    if room >= ROOM_FOR_NUMBER:
        _write_numbers(axes, subject, mesh, middles, whole)
    axes.set_yticks(np.arange(len(names)) + 0.5, labels)
    axes.invert_yaxis()
    shown = range(len(grid.columns)) if named else ()
    upright = room < 0.06 * max(map(len, users))
    axes.set_xticks(
        [*(middles[place] for place in shown), middles[-1]], [*(users[place] for place in shown), "all"],
        rotation=90 if upright and named else 0,
    )  # fmt: skip
    axes.tick_params(length=0)
    axes.set_xlabel("test user" if named else f"{len(grid.columns)} test users, sorted by {subject.reference}")
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    bar = figure.colorbar(mesh, ax=axes, fraction=0.05, pad=0.01, aspect=12)
    bar.outline.set_visible(False)  # type: ignore[operator]
    metric_scale(bar.ax.yaxis, primary, most=4)
    bar.set_label(metric_label(primary), fontsize=SMALL_FONT)
    return figure


def _hatch_empty(axes: Axes, grid: pd.DataFrame) -> None:
    for row, column in np.argwhere(grid.isna().to_numpy()):
        axes.add_patch(Rectangle((column, row), 1, 1, hatch="////", facecolor="white", linewidth=0))


def _write_numbers(axes: Axes, subject: Subject, mesh: QuadMesh, middles: np.ndarray, whole: np.ndarray) -> None:
    primary = subject.primary
    colours = colormaps[COLOURS]
    for row, column in np.argwhere(~np.isnan(whole)):
        value = whole[row, column]
        red, green, blue, _ = colours(float(np.asarray(mesh.norm(value))))
        text = f"{100 * value:.0f}" if primary.unit == "%" else primary.text(value)
        # Relative luminance, ITU-R BT.709.
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45
        axes.text(
            middles[column], row + 0.5, text, ha="center", va="center", fontsize=SMALL_FONT,
            color="white" if dark else INK,
        )  # fmt: skip
