"""The figure of what each experiment cost against how good it is."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from usertune.evaluation import table_names
from usertune.reporting.figures.axes import (
    LETTERS_IN_AN_INCH,
    exact,
    handles_of,
    legend_above,
    legend_height,
    metric_label,
    metric_scale,
    said,
)
from usertune.reporting.figures.sheet import PALE, WIDTHS, Subject, new_figure, short_names

TITLE = "Cost and accuracy"
ALTERNATIVE = (
    "Scatter plot: one mark for each experiment, with its hours or GPU hours across and the primary metric with its "
    "interval upwards. The numbers are in the tables Cost and Result."
)
CAPTION = (
    "{metric} of each experiment with its {interval} ({users}, {samples}), against what its training and its answers "
    "took: GPU hours, or hours if not all experiments had a GPU. Of two experiments, the one further up and further "
    "left gives more for less. A dotted line leads back to the experiment's own cost; the rest is the training of the "
    "experiments that it builds on."
)
READS = ("costs",)
NEEDS = ("comparisons",)

# From this ratio of the highest to the lowest cost, the axis is logarithmic.
WIDE = 8


@dataclass(frozen=True)
class Costs:
    """Costs of experiments: ``own``, and in ``total`` with what they build on; the others are ``unknown``."""

    own: pd.Series
    total: pd.Series
    label: str
    unknown: Sequence[str]


def draw(subject: Subject) -> Figure:
    """Draw the primary metric of each experiment against its cost.

    Raises:
        UserError: the table of experiments or of costs is missing, malformed or of another study.
    """
    costs = costs_of(subject)
    if costs.total.empty:
        return said("the cost of no experiment is known", subject)
    handles = [
        handle
        for handle, name in zip(handles_of(subject), subject.design.names, strict=True)
        if name not in costs.unknown
    ]
    height = (2.1 if subject.narrow else 2.5) + legend_height(handles, subject.columns)
    figure = new_figure(height, subject.columns)
    axes = figure.subplots()
    values = subject.table(table_names.SUMMARY).set_index("experiment")
    for name in costs.total.index:
        _draw_experiment(axes, subject, name, costs, values.loc[name])
    _scale_costs(axes, costs, most=4 if subject.narrow else 8)
    axes.margins(x=0.07, y=0.08)
    metric_scale(axes.yaxis, subject.primary)
    axes.set_ylabel(metric_label(subject.primary))
    axes.set_xlabel(_label(costs, subject))
    legend_above(figure, handles, subject.columns)
    return figure


def costs_of(subject: Subject) -> Costs:
    """Return the cost of each experiment, all in one unit.

    Raises:
        UserError: see `draw`.
    """
    table = subject.table(table_names.COST).set_index("experiment").loc[subject.design.names]
    gpu_hours = table["gpu_hours"].astype(float)
    on_gpus = bool((gpu_hours > 0).any() and not (gpu_hours == 0).any())
    kind, label = ("gpu_hours", "GPU hours") if on_gpus else ("hours", "hours")
    own, others = table[kind].astype(float), table[f"builds_on_{kind}"].astype(float)
    total = own + others.where(table["builds_on"] != "", 0.0)
    known = total > 0
    return Costs(own[known], total[known], label, list(table.index[~known]))


def _draw_experiment(axes: Axes, subject: Subject, name: str, costs: Costs, row: pd.Series) -> None:
    style, metric = subject.styles[name], subject.primary.name
    own, total, value = costs.own[name], costs.total[name], row[metric]
    if own < total:
        axes.plot([own, total], [value, value], color=style.colour, linewidth=1, linestyle=":", marker="|", zorder=1)
    axes.plot([total] * 2, [row[f"{metric}_low"], row[f"{metric}_high"]], color=style.colour, linewidth=1.4, zorder=2)
    axes.plot(
        [total], [value], color=style.colour, marker=style.marker, markersize=6 * style.scale, markeredgecolor="white",
        markeredgewidth=0.5, linestyle="none", zorder=3, label=name,
    )  # fmt: skip


def _scale_costs(axes: Axes, costs: Costs, most: int) -> None:
    low, high = costs.own.min(), costs.total.max()
    if high >= WIDE * low:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 3) if high < 100 * low and most > 4 else (1,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", which="minor", color=PALE)
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(most))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: exact(value)))


def _label(costs: Costs, subject: Subject) -> str:
    label = f"{costs.label} of training and answers"
    if not costs.unknown:
        return label
    names = ", ".join(short_names(costs.unknown, 18))
    lines = textwrap.wrap(f"(cost not known: {names})", int(LETTERS_IN_AN_INCH * WIDTHS[subject.columns] * 0.8))
    return "\n".join([label, *lines])
