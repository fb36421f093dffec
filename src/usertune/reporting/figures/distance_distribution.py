"""The figure of how far answers are from their targets."""

from __future__ import annotations

import math

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from usertune.evaluation import table_names
from usertune.reporting.figures.sheet import PALE, Subject, legend_above, new_figure, percent_scale, say
from usertune.tasks.metrics import threshold_label

TITLE = "Distance to the target"
ALTERNATIVE = (
    "Cumulative curves: for each experiment, the share of all samples that lie within a given distance of the target."
)
CAPTION = (
    "How many of all samples lie within a distance of the target. Where a curve crosses the full vertical line it "
    "shows the click accuracy. Unparsed answers lie within no distance, so a curve ends at the experiment's share of "
    "parsed answers."
)
READS = ()

LARGEST_INSIDE_DISTANCE = 1000 * math.sqrt(2)
DISTANCE_STEP = 2.0


def draw(subject: Subject) -> Figure:
    """Draw, for each experiment, the share of all samples that lie within a distance of the target.

    Unparsed answers lie within no distance, so a curve ends at the experiment's parse rate (less the answers
    further away than the diagonal of the 0-1000 square). Thresholds are marked, the primary one as a full line.

    Raises:
        UserError: the table of samples is missing, malformed or of another study.
    """
    names, style = subject.design.names, subject.styles
    samples = subject.table(table_names.SAMPLES)
    figure = new_figure(height=4.3)
    axes = figure.subplots()
    if "distance" not in samples:
        say(axes, "no distances in this task")
        return figure
    steps = np.arange(0, LARGEST_INSIDE_DISTANCE + DISTANCE_STEP, DISTANCE_STEP)
    rounded_up = np.ceil(samples["distance"] / DISTANCE_STEP) * DISTANCE_STEP
    for name in names:
        # Weights are shares of all samples, so unparsed answers count although they have no distance.
        shares = rounded_up[samples["experiment"] == name].value_counts(normalize=True, dropna=False)
        sns.ecdfplot(
            x=steps, weights=shares.reindex(steps, fill_value=0), stat="count", ax=axes, label=name,
            color=style[name].colour, linestyle=style[name].dashes, linewidth=1.8, marker=style[name].marker,
            markevery=(36, 70), markersize=5, markeredgecolor="white",
        )  # fmt: skip
    for index, threshold in enumerate(subject.thresholds):
        axes.axvline(threshold, color=PALE, linewidth=1.0, linestyle="-" if index == 0 else ":", zorder=1)
        axes.annotate(
            threshold_label(threshold), (threshold, 1), xycoords=("data", "axes fraction"), xytext=(3, -3),
            textcoords="offset points", va="top", fontsize=8, color="#5f6672",
        )  # fmt: skip
    axes.set_xlim(0, LARGEST_INSIDE_DISTANCE)
    axes.set_ylim(0, 1)
    percent_scale(axes)
    axes.set_xlabel("L2 distance to the target (0\N{EN DASH}1000 space)")
    axes.set_ylabel("share of all samples within the distance")
    legend_above(axes, len(names))
    return figure
