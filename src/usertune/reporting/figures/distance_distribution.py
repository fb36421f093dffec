"""The figure of the accuracy at every radius around the target."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from usertune.evaluation import table_names
from usertune.reporting.figures.axes import exact, handles_of, legend_above, legend_height, said, with_points
from usertune.reporting.figures.sheet import INK, PALE, SMALL_FONT, Subject, new_figure
from usertune.tasks.metrics import threshold_label

TITLE = "Accuracy at every radius"
ALTERNATIVE = (
    "Curves, one for each experiment: the share of answers within a distance of the target, for all distances from 0. "
    "The legend has the area under each curve."
)
CAPTION = (
    "Share of answers within a radius of the target (L2 distance in the 0-1000 space), as the mean over {users} with "
    "{samples}. Vertical lines are the thresholds of the study, the primary one full. The area under a curve, in the "
    "legend, is the mean share over the radii shown. Unparsed answers are within no radius."
)
READS = ()
NEEDS = ("points",)

LARGEST_INSIDE_DISTANCE = 1000 * math.sqrt(2)
RADII = 400


def draw(subject: Subject) -> Figure:
    """Draw, for each experiment, the share of samples whose answer lies within every radius of the target.

    The share is the mean over users of the shares of their samples, of those that have a target point. Radii end at
    four times the primary threshold, or above the largest one.

    Raises:
        UserError: the table of samples is missing, malformed or of another study.
    """
    names = subject.design.names
    samples = with_points(subject.table(table_names.SAMPLES))
    if isinstance(samples, str):
        return said(samples, subject)
    off = samples["x"] - samples["target_x"], samples["y"] - samples["target_y"]
    away = pd.Series(np.hypot(*off), index=samples.index)
    end = min(max(4 * subject.thresholds[0], 1.5 * max(subject.thresholds)), LARGEST_INSIDE_DISTANCE)
    radii = np.unique([*np.linspace(0, end, RADII), *subject.thresholds])
    handles, curves = handles_of(subject), []
    for name, handle in zip(names, handles, strict=True):
        own = samples["experiment"] == name
        curves.append(shares_within(away[own], samples.loc[own, "user"], radii))
        area = float(np.trapezoid(curves[-1], radii) / end)
        handle.set_label(f"{handle.get_label()} ({100 * area:.1f} %)")
    figure = new_figure((2.2 if subject.narrow else 2.6) + legend_height(handles, subject.columns), subject.columns)
    axes = figure.subplots()
    every = len(radii) // 6
    for place, (name, shares) in enumerate(zip(names, curves, strict=True)):
        style = subject.styles[name]
        axes.plot(
            radii, shares, color=style.colour, linestyle=style.dashes, linewidth=1.3, marker=style.marker,
            markevery=(every // 2 + place * every // len(names), every), markersize=4 * style.scale,
            markeredgecolor="white", markeredgewidth=0.4, label=name,
        )  # fmt: skip
    for index, threshold in enumerate(subject.thresholds):
        axes.axvline(threshold, color=PALE, linewidth=0.9, linestyle="-" if index == 0 else ":", zorder=1)
        axes.annotate(
            threshold_label(threshold), (threshold, 1), xycoords=("data", "axes fraction"), xytext=(2, -2),
            textcoords="offset points", va="top", fontsize=SMALL_FONT, color=INK,
        )  # fmt: skip
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{exact(100 * value)} %"))
    axes.set_xlabel("radius around the target (0\N{EN DASH}1000 space)")
    axes.set_ylabel("answers within the radius")
    legend_above(figure, handles, subject.columns, title="experiment (area under its curve)")
    return figure


def shares_within(distances: pd.Series, users: pd.Series, radii: np.ndarray) -> np.ndarray:
    """Return the share of samples within each radius, at it included, as the mean over users.

    Args:
        distances: distance of each sample, shape (N,); NaN where there is no answer, which is within no radius.
        users: the user of each sample, shape (N,).
        radii: shape (R,).
    """
    of_users = [
        np.searchsorted(np.sort(own.dropna().to_numpy()), radii, side="right") / len(own)
        for _, own in distances.groupby(users, sort=False)
    ]
    return np.asarray(np.mean(of_users, axis=0))
