"""The figure of the paired comparisons: how far one experiment is above another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from usertune.core.formatting import p_equals
from usertune.evaluation import table_names
from usertune.evaluation.tables import read_table, records
from usertune.reporting.figures.axes import gain_label, gain_scale, said
from usertune.reporting.figures.sheet import INK, PALE, SMALL_FONT, Subject, new_figure, short_names
from usertune.reporting.style import BASELINE_COLOUR, Style

TITLE = "Paired gains"
ALTERNATIVE = (
    "Forest plot: one row for each comparison, with the difference of two experiments in the primary metric on the "
    "same samples, its interval, and a line at no difference. The numbers are in the table Differences."
)
CAPTION = (
    "Differences in {metric} on the same samples: mean over users with its {interval} (Student's t over users; {users} "
    "with {samples}). An interval that excludes the line at 0 shows a difference. p is that of the exact sign-flip "
    "test over users, corrected by Holm's method for the comparisons that the study states; others, below the dotted "
    "line, have none."
)
READS = ()
NEEDS = ("comparisons",)

# Inches.
ROW, TWO_LINES = 0.19, 0.27
PLAIN = Style(BASELINE_COLOUR, "o", (0.0, ()))


def draw(subject: Subject) -> Figure:
    """Draw the comparisons that the study states, then the other experiments against the reference.

    Raises:
        UserError: the table of differences or of the hypothesis is missing or malformed.
    """
    stated, others = comparisons(subject)
    rows = [*stated, *others]
    if not rows:
        return said("one experiment: there is nothing to compare it with", subject)
    references = {row["baseline"] for row in rows}
    common = references.pop() if len(references) == 1 else ""
    figure = new_figure(0.55 + (ROW if common else TWO_LINES) * (len(rows) + 0.6), subject.columns)
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    if stated and others:
        axes.axhline(len(stated) - 0.5, color=PALE, linewidth=0.8, linestyle=":", zorder=1)
    for place, row in enumerate(rows):
        _draw_row(axes, subject, place, row)
    axes.set_yticks(range(len(rows)), _labels(rows, common, 16 if subject.narrow else 30))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    gain_scale(axes.xaxis, subject.primary, most=4 if subject.narrow else 8)
    axes.set_xlabel(gain_label(subject.primary, common, short=subject.narrow))
    return figure


def _draw_row(axes: Axes, subject: Subject, place: int, row: Mapping[str, Any]) -> None:
    style = _style(subject, row["experiment"])
    axes.plot([row["low"], row["high"]], [place, place], color=style.colour, linewidth=1.6, zorder=2)
    axes.plot(
        [row["difference"]], [place], color=style.colour, marker=style.marker, markersize=5.5 * style.scale,
        markeredgecolor="white", markeredgewidth=0.5, linestyle="none", zorder=3, label=row["experiment"],
    )  # fmt: skip
    axes.annotate(
        _in_words(subject, row), (1, place), xycoords=("axes fraction", "data"), xytext=(5, 0),
        textcoords="offset points", va="center", fontsize=SMALL_FONT, annotation_clip=False,
    )  # fmt: skip


Rows = list[dict[str, Any]]


def comparisons(subject: Subject) -> tuple[Rows, Rows]:
    """Return the rows of the tables that are drawn: those that the hypothesis states, and the others.

    The others are the experiments and groups of figures, each against the reference.

    Raises:
        UserError: a table is missing or malformed.
    """
    tables, reference = subject.sources.tables, subject.reference
    has_stated = subject.has_table(table_names.HYPOTHESIS)
    stated = records(read_table(tables / table_names.HYPOTHESIS)) if has_stated else []
    known = {frozenset((row["experiment"], row["baseline"])) for row in stated}
    shown = {*subject.members, *(own[0] for own in subject.members.values() if len(own) == 1)}
    others = []
    for row in records(read_table(tables / table_names.DIFFERENCES)):
        pair = {row["experiment"], row["baseline"]}
        if reference in pair <= shown and frozenset(pair) not in known:
            others.append(row if row["baseline"] == reference else _turned(row))
    return stated, others


def _turned(row: Mapping[str, Any]) -> dict[str, Any]:
    ends = {"difference": -row["difference"], "low": -row["high"], "high": -row["low"]}
    return {**row, **ends, "experiment": row["baseline"], "baseline": row["experiment"]}


def _style(subject: Subject, name: str) -> Style:
    for label, members in subject.members.items():
        if name == label or name in members:
            return subject.styles[label]
    return PLAIN


def _labels(rows: Sequence[Mapping[str, Any]], common: str, most: int) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in (row["experiment"], row["baseline"])))
    short = dict(zip(names, short_names(names, most), strict=True))
    return [
        short[row["experiment"]] if common else f"{short[row['experiment']]}\nover {short[row['baseline']]}"
        for row in rows
    ]


def _in_words(subject: Subject, row: Mapping[str, Any]) -> str:
    primary = subject.primary
    interval = "" if pd.isna(row["low"]) else primary.difference_interval(row["low"], row["high"])
    p = row["p_holm"]
    test = "" if pd.isna(p) else p_equals(p)
    words = [primary.difference(row["difference"]), "" if subject.narrow else interval or "(no interval)", test]
    return "  ".join(filter(None, words))
