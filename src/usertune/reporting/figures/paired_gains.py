"""The figure of the paired comparisons: how far one experiment is above another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from usertune.evaluation import table_names
from usertune.evaluation.tables import read_table, records
from usertune.reporting.figures.axes import gain_label, gain_scale, said
from usertune.reporting.figures.sheet import INK, SMALL_FONT, Subject, new_figure, short_names
from usertune.reporting.style import BASELINE_COLOUR, Style

TITLE = "Paired gains"
ALTERNATIVE = (
    "Forest plot: one row for each comparison, with the difference of two experiments in the primary metric on the "
    "same samples, its interval, and a line at no difference. The numbers are in the table Differences."
)
CAPTION = (
    "Differences in {metric} on the same samples, with their {interval}, which takes users, not samples, as "
    "independent ({users} with {samples}). An interval that excludes the line at 0 shows a difference. p, where given, "
    "is that of an exact sign-flip test over users, corrected by Holm's method where several comparisons are stated."
)
READS = ()
NEEDS = ("comparisons",)

ROW = 0.19
PLAIN = Style(BASELINE_COLOUR, "o", (0.0, ()))


def draw(subject: Subject) -> Figure:
    """Draw the comparisons that the study states, or else each experiment against the reference.

    Raises:
        UserError: the table of differences or of the hypothesis is missing or malformed.
    """
    rows = comparisons(subject)
    if not rows:
        return said("one experiment: there is nothing to compare it with", subject)
    references = {row["baseline"] for row in rows}
    common = references.pop() if len(references) == 1 else ""
    figure = new_figure(0.55 + ROW * (len(rows) + 0.6), subject.columns)
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    for place, row in enumerate(rows):
        style = _style(subject, row["experiment"])
        if not pd.isna(row["low"]):
            axes.plot([row["low"], row["high"]], [place, place], color=style.colour, linewidth=1.6, zorder=2)
        axes.plot(
            [row["difference"]], [place], color=style.colour, marker=style.marker, markersize=5.5 * style.scale,
            markeredgecolor="white", markeredgewidth=0.5, linestyle="none", zorder=3, label=row["experiment"],
        )  # fmt: skip
        axes.annotate(
            _in_words(subject, row), (1, place), xycoords=("axes fraction", "data"), xytext=(5, 0),
            textcoords="offset points", va="center", fontsize=SMALL_FONT, annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), _labels(rows, common, 16 if subject.narrow else 30))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    gain_scale(axes.xaxis, subject.primary, most=4 if subject.narrow else 8)
    axes.set_xlabel(gain_label(subject.primary, common, short=subject.narrow))
    return figure


def comparisons(subject: Subject) -> list[dict[str, Any]]:
    """Return the rows of the tables that are drawn, each with the experiment that is compared first.

    They are those of the hypothesis, if it states comparisons; else each experiment against the reference.

    Raises:
        UserError: a table is missing or malformed.
    """
    stated = subject.sources.tables / table_names.HYPOTHESIS
    if subject.has_table(table_names.HYPOTHESIS):
        return records(read_table(stated))
    table = read_table(subject.sources.tables / table_names.DIFFERENCES)
    reference = subject.reference
    rows = [row if row["baseline"] == reference else _turned(row) for row in records(table)]
    return [row for row in rows if row["baseline"] == reference]


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
    p = next((row[key] for key in ("p_holm", "p") if not pd.isna(row.get(key, np.nan))), None)
    test = "" if p is None else f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    words = [primary.difference(row["difference"]), "" if subject.narrow else interval or "(no interval)", test]
    return "  ".join(filter(None, words))
