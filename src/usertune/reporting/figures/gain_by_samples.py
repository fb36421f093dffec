"""The figure of each user's gain against the number of their samples."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from usertune.evaluation import table_names
from usertune.reporting.figures.axes import gain_scale, panels, rows_of, said
from usertune.reporting.figures.sheet import INK, SMALL_FONT, Subject, new_figure, short_names

TITLE = "Gain and number of samples"
ALTERNATIVE = (
    "Scatter plots, one for each experiment: each test user's gain in the primary metric against the number of the "
    "user's samples."
)
CAPTION = (
    "Each mark is a test user: how far {metric} is above that of {reference}, against the number of the user's "
    "samples ({users}, {samples}). r is Spearman's rank correlation; the dashed line is the mean gain over users. "
    "Users with few samples scatter more by chance alone."
)
READS = ()
NEEDS = ("comparisons",)

# From this ratio of the largest to the smallest number of samples, the axis is logarithmic.
WIDE = 8
# With fewer users a correlation says nothing.
FEWEST_FOR_CORRELATION = 5


def draw(subject: Subject) -> Figure:
    """Draw the gain of each user over the reference against the number of the user's samples, by experiment.

    Raises:
        UserError: the table of users is missing, malformed or of another study.
    """
    others = [name for name in subject.design.names if name != subject.reference]
    if not others:
        return said("one experiment: there is nothing to compare it with", subject)
    table = subject.table(table_names.USERS)
    samples = table[table["experiment"] == subject.reference].set_index("user")["samples"]
    if samples.nunique() < 2:
        return said(f"every test user has {samples.iloc[0]:,.0f} samples: gain cannot depend on their number", subject)
    gains = subject.by_user.sub(subject.by_user[subject.reference], axis=0)
    rows, per_row = rows_of(len(others), (2 if len(others) <= 6 else 3) if subject.narrow else 5)
    figure = new_figure(0.35 + rows * (1.35 if subject.narrow else 1.5), subject.columns)
    axes = panels(figure, len(others), per_row, sharex=True, sharey=True)
    titles = short_names(others, 14 if subject.narrow else 20)
    for place, (panel, name, title) in enumerate(zip(axes, others, titles, strict=True)):
        _draw_panel(panel, subject, name, title, samples.loc[gains.index], gains[name])
        # A panel without one below it has the labels of the axis.
        panel.tick_params(labelbottom=place + per_row >= len(others))
    _scale_samples(axes[0], samples)
    gain_scale(axes[0].yaxis, subject.primary, most=5)
    figure.supxlabel("samples of the user", fontsize=7.5)
    unit = "" if subject.primary.unit != "%" else " (points)"
    figure.supylabel(f"gain over {short_names([subject.reference], 18)[0]}{unit}", fontsize=7.5)
    return figure


def _draw_panel(axes: Axes, subject: Subject, name: str, title: str, samples: pd.Series, gains: pd.Series) -> None:
    style = subject.styles[name]
    axes.axhline(0, color=INK, linewidth=0.7, zorder=1)
    axes.axhline(gains.mean(), color=style.colour, linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
    axes.plot(
        samples, gains, color=style.colour, marker=style.marker, markersize=3.6 * style.scale, markeredgecolor="white",
        markeredgewidth=0.3, linestyle="none", zorder=2, label=name,
    )  # fmt: skip
    axes.set_title(title, fontsize=SMALL_FONT, loc="left", pad=2)
    r = rank_correlation(samples, gains)
    if r is not None:
        axes.annotate(
            f"r = {r:.2f}".replace("-", "\N{MINUS SIGN}"), (1, 0), xycoords="axes fraction", xytext=(-2, 2),
            textcoords="offset points", ha="right", va="bottom", fontsize=SMALL_FONT, zorder=3,
            bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 0.8},
        )  # fmt: skip


def rank_correlation(first: pd.Series, second: pd.Series) -> float | None:
    """Return Spearman's rank correlation of two numbers of each user; None if either is constant or users are few."""
    known = first.notna() & second.notna()
    ranks = [values[known].rank() for values in (first, second)]
    if known.sum() < FEWEST_FOR_CORRELATION or any(values.nunique() < 2 for values in ranks):
        return None
    return float(ranks[0].corr(ranks[1]))


def _scale_samples(axes: Axes, samples: pd.Series) -> None:
    if samples.max() >= WIDE * max(samples.min(), 1):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 3) if samples.max() < 1000 else (1,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
