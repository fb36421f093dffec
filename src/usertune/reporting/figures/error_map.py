"""The figure of where on the screen answers miss, and in which direction."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from usertune.evaluation import table_names
from usertune.reporting.figures.axes import panels, rows_of, said, with_points
from usertune.reporting.figures.sheet import INK, SMALL_FONT, Subject, new_figure, short_names
from usertune.tasks.metrics import threshold_label

TITLE = "Misses over the screen"
ALTERNATIVE = (
    "One map of the screen for each experiment, in cells: the colour is the share of the cell's targets that were "
    "missed, and an arrow goes from the middle of the cell in the direction of the median miss."
)
CAPTION = (
    "The screen in the metric's space (0-1000 on each axis, whatever its shape), in 5 x 5 cells. Colour: share of the "
    "targets in a cell that no answer within the primary threshold hit, unparsed answers included; cells without "
    "targets are hatched. Arrow: median of answer minus target over the misses that name a point, to scale, in cells "
    "with at least 5 of them. {samples} of {users}."
)
READS = ()
NEEDS = ("points",)

SCREEN, CELLS = 1000, 5
# With fewer misses in a cell, their median is that of single samples.
FEWEST_MISSES = 5
# Lightness falls from white on, so that it can be read in grey.
COLOURS = "Blues"


def draw(subject: Subject) -> Figure:
    """Draw one map of the screen for each experiment.

    Raises:
        UserError: the table of samples is missing, malformed or of another study.
    """
    names = subject.design.names
    samples = with_points(subject.table(table_names.SAMPLES))
    if isinstance(samples, str):
        return said(samples, subject)
    rows, per_row = rows_of(
        len(names), (2 if len(names) <= 4 else 3) if subject.narrow else (3 if len(names) <= 6 else 5)
    )
    width = (2.75 if subject.narrow else 6.1) / max(per_row, 2)
    figure = new_figure(0.25 + rows * (width + 0.2) + 0.4, subject.columns)
    axes = panels(figure, len(names), per_row, sharex=True, sharey=True)
    titles = short_names(names, 14 if subject.narrow else 24)
    for panel, name, title in zip(axes, names, titles, strict=True):
        own = cells(samples[samples["experiment"] == name], subject.thresholds[0])
        mesh = _draw_panel(panel, own)
        panel.set_title(title, fontsize=SMALL_FONT, loc="left", pad=2)
    for panel in axes:
        panel.tick_params(labelbottom=False, labelleft=False, length=0)
    bar = figure.colorbar(mesh, ax=axes, location="bottom", fraction=0.05, pad=0.02, aspect=30, shrink=0.7)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    bar.set_label(f"targets missed (not within {threshold_label(subject.thresholds[0])})", fontsize=SMALL_FONT)
    return figure


def cells(samples: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return one row for each cell of the screen that has targets.

    Args:
        samples: rows of one experiment with the columns ``x``, ``y`` (NaN without a point), ``target_x`` and
            ``target_y``, in the 0-1000 space.
        threshold: distance within which an answer hits.

    Returns:
        Columns ``column``, ``row`` (of the cell; row 0 is the top), ``targets``, ``missed`` (share), ``misses`` (with a
        point), ``x`` and ``y`` (median of answer minus target over those).
    """
    offset = pd.DataFrame({axis: samples[axis] - samples[f"target_{axis}"] for axis in ("x", "y")})
    missed = pd.Series(~(np.hypot(offset["x"], offset["y"]) <= threshold), index=samples.index)
    place = {
        name: (samples[f"target_{axis}"] * CELLS // SCREEN).clip(0, CELLS - 1).astype(int)
        for name, axis in (("column", "x"), ("row", "y"))
    }
    keys = [place["column"], place["row"]]
    by_cell = pd.DataFrame({"targets": missed.groupby(keys).size(), "missed": missed.groupby(keys).mean()})
    pointed = offset[missed & offset["x"].notna()]
    of_misses = pointed.groupby([key[pointed.index] for key in keys])
    by_cell = by_cell.join(of_misses.size().rename("misses")).join(of_misses.median())
    by_cell.index.names = ["column", "row"]
    return by_cell.fillna({"misses": 0}).reset_index()


def _draw_panel(axes: Axes, own: pd.DataFrame) -> QuadMesh:
    shares = np.full((CELLS, CELLS), np.nan)
    shares[own["row"], own["column"]] = own["missed"]
    edges = np.linspace(0, SCREEN, CELLS + 1)
    axes.set_facecolor("white")
    axes.fill_between([0, SCREEN], 0, SCREEN, hatch="////", facecolor="white", linewidth=0, zorder=0)
    mesh = axes.pcolormesh(
        edges, edges, np.ma.masked_invalid(shares), cmap=COLOURS, vmin=0, vmax=1, edgecolor="white", linewidth=0.5,
        zorder=1,
    )  # fmt: skip
    often = own[own["misses"] >= FEWEST_MISSES]
    x, y = ((often[name] + 0.5) * SCREEN / CELLS for name in ("column", "row"))
    axes.quiver(
        x, y, often["x"], often["y"], angles="xy", scale_units="xy", scale=1, units="inches", width=0.016,
        headwidth=4.5, headlength=5, headaxislength=4.5, color=INK, edgecolor="white", linewidth=0.4, zorder=2,
    )  # fmt: skip
    axes.set_xlim(0, SCREEN)
    axes.set_ylim(SCREEN, 0)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    return mesh
