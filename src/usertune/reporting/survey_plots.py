"""The plots of a survey's page: samples of each user, and the commonest apps."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from usertune.reporting.figures.sheet import STYLE, new_figure
from usertune.reporting.style import BASELINE_COLOUR, PALETTE

MOST_APPS = 20
# With more users, their ids are left out below the bars.
MOST_LABELS = 30


def samples_svg(users: Sequence[Mapping[str, Any]]) -> bytes:
    """Return bars of the number of samples of each user, in the order of the rows and coloured by split, as SVG."""
    with _style():
        figure = new_figure(height=3.2)
        axes = figure.subplots()
        for index, split in enumerate(dict.fromkeys(row["split"] for row in users)):
            places = [place for place, row in enumerate(users) if row["split"] == split]
            axes.bar(places, [users[place]["samples"] for place in places], color=PALETTE[index], label=split)
        labels = range(len(users)) if len(users) <= MOST_LABELS else ()
        axes.set_xticks(labels, [users[place]["user"] for place in labels])
        axes.set_xlabel("user" if labels else f"{len(users):,} users, in the order of the table")
        axes.set_ylabel("samples")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=3, borderaxespad=0)
        return _svg(figure)


def apps_svg(apps: Sequence[Mapping[str, Any]]) -> bytes:
    """Return bars of the apps with most samples, marked if one user alone has the app, as SVG."""
    with _style():
        shown = list(apps[:MOST_APPS])[::-1]
        figure = new_figure(height=0.9 + 0.22 * len(shown))
        axes = figure.subplots()
        colours = [BASELINE_COLOUR if row["only_user"] else PALETTE[0] for row in shown]
        axes.barh(range(len(shown)), [row["samples"] for row in shown], color=colours)
        # Names come from the data: a dollar sign must not start mathematics.
        names = [str(row["app"]).replace("$", r"\$")[:40] for row in shown]
        axes.set_yticks(range(len(shown)), names)
        axes.set_xlabel("samples (grey: apps of one user alone)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="y")
        return _svg(figure)


def _style() -> Any:
    # Text stays text: names of apps are in any script, and the browser has fonts for them.
    return mpl.rc_context({**mpl.rcParamsDefault, **STYLE, "svg.fonttype": "none"})


def _svg(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()
