"""Parts of axes that figures share: scales, legends, small multiples."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from usertune.reporting.figures.sheet import INK, SMALL_FONT, WIDTHS, Subject, new_figure, short_names
from usertune.tasks.metrics import Metric

MINUS = "\N{MINUS SIGN}"
# Letters in an inch of a legend, and those that a mark takes.
LETTERS_IN_AN_INCH, LETTERS_OF_MARK = 17, 7


def said(text: str, subject: Subject) -> Figure:
    """Return a figure that shows a sentence alone, for results with nothing to draw."""
    figure = new_figure(0.8, subject.columns)
    lines = textwrap.fill(text, int(LETTERS_IN_AN_INCH * WIDTHS[subject.columns] * 0.75))
    figure.text(0.5, 0.5, lines, ha="center", va="center", color=INK)
    return figure


def with_points(samples: pd.DataFrame) -> pd.DataFrame | str:
    """Return the samples whose target is a point; a sentence for `said` if there are none."""
    if not {"x", "y", "target_x", "target_y"} <= set(samples):
        return "no points in this task"
    found = samples[samples["target_x"].notna()]
    return found if len(found) else "no test sample has a point as its target"


def exact(value: float) -> str:
    """Return a tick's number with all the digits that it has: 2.5 is not 2."""
    return f"{round(value, 9):.9g}".replace("-", MINUS)


def metric_scale(axis: Axis, metric: Metric, most: int = 6) -> None:
    """Write the values of a metric on an axis: fractions as percentages, with every digit that a tick has."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    if metric.unit == "%":
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{exact(100 * value)} %"))
    else:
        axis.set_major_formatter(FuncFormatter(lambda value, _: exact(value)))


def gain_scale(axis: Axis, metric: Metric, most: int = 6) -> None:
    """Write differences of a metric on an axis, with their sign; those of fractions in percentage points."""
    factor = 100 if metric.unit == "%" else 1
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: ("+" if round(value, 9) > 0 else "") + exact(factor * value))
    )


def metric_label(metric: Metric) -> str:
    """Return the label of an axis with values of a metric."""
    unit = f" ({metric.unit})" if metric.unit not in ("", "%") else ""
    return f"{metric.title}{unit}"


def gain_label(metric: Metric, reference: str = "", short: bool = False) -> str:
    """Return the label of an axis with differences of a metric; ``short`` leaves the metric out."""
    unit = "points" if metric.unit == "%" else metric.unit
    over = f" over {short_names([reference], 18)[0]}" if reference else ""
    return f"gain{'' if short else f' in {metric.title}'}{over}{f' ({unit})' * bool(unit)}"


def highest(metric: Metric, *values: Any) -> float:
    """Return where an axis of the metric ends: at its bound, or a little above the highest value if that is less."""
    known = [np.nanmax(value) for value in values if np.isfinite(np.asarray(value, dtype=float)).any()]
    top = max(known, default=1.0)
    return float(min(metric.bounds[1], np.ceil(10 * top + 0.3) / 10)) if metric.unit == "%" else float(1.05 * top)


def handles_of(subject: Subject) -> list[Line2D]:
    """Return the entries of a legend of the experiments, in their order."""
    labels = short_names(subject.design.names, 18 if subject.narrow else 30)
    marks: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.4, "linewidth": 1.3}
    styles = [subject.styles[name] for name in subject.design.names]
    return [
        Line2D(
            [],
            [],
            color=own.colour,
            marker=own.marker,
            linestyle=own.dashes,
            label=label,
            markersize=4.5 * own.scale,
            **marks,
        )
        for own, label in zip(styles, labels, strict=True)
    ]


def legend_height(handles: Sequence[Any], columns: int) -> float:
    """Return how high a legend is above all axes, in inches; ``columns`` is the width of the figure."""
    return 0.14 * -(-len(handles) // _legend_columns(handles, columns))


def legend_above(figure: Figure, handles: Sequence[Any], columns: int, title: str | None = None) -> None:
    """Put a legend above all axes, where it hides no data; ``columns`` is the width of the figure."""
    figure.legend(
        handles=handles, loc="outside upper left", ncols=_legend_columns(handles, columns), handletextpad=0.5,
        columnspacing=1.2, handlelength=2.4, borderaxespad=0.1, borderpad=0.1, title=title, alignment="left",
        title_fontsize=SMALL_FONT,
    )  # fmt: skip


def _legend_columns(handles: Sequence[Any], columns: int) -> int:
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    fit = int(LETTERS_IN_AN_INCH * WIDTHS[columns]) // (longest + LETTERS_OF_MARK)
    return max(1, min(len(handles), 6, fit))


def rows_of(count: int, most: int) -> tuple[int, int]:
    """Return the number of rows of small multiples, and how many are in each, at most ``most``; the last has fewer."""
    rows = -(-count // most)
    return rows, -(-count // rows)


def panels(figure: Figure, count: int, per_row: int, **options: Any) -> list[Axes]:
    """Return axes in rows for small multiples; those of the last row that are not needed are removed."""
    rows = -(-count // per_row)
    found = list(figure.subplots(rows, per_row, squeeze=False, **options).flat)
    for unused in found[count:]:
        unused.remove()
    return found[:count]
