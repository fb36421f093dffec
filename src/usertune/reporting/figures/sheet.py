"""What the figures share: their subject, their style, parts of axes, and how they are written.

Figures are kept out of the global state of pyplot, and equal inputs give equal SVG bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from usertune.core.files import atomic_writer
from usertune.evaluation import table_names
from usertune.evaluation.recipe import ComparisonDesign
from usertune.evaluation.tables import read_table, require_experiments
from usertune.reporting.recipe import FigureRecipe
from usertune.reporting.shown import members_of, merged, shown_experiments
from usertune.reporting.style import Style, styles
from usertune.tasks.metrics import Metric

PNG_DOTS_PER_INCH = 200
WIDTH_IN_INCHES = 9.2
# Letters in the width of a figure, and those that a mark of a legend takes.
LINE_OF_LEGEND, LETTERS_OF_MARK = 105, 8
INK, PALE = "#22262e", "#8a919e"

STYLE = {
    **sns.axes_style(
        "ticks",
        rc={
            "axes.edgecolor": PALE,
            "axes.grid": True,
            "axes.labelcolor": INK,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "font.family": ["DejaVu Sans"],
            "grid.color": "#e6e8ec",
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        },
    ),
    "axes.linewidth": 0.8,
    "font.size": 9.5,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "usertune",
}


@dataclass(frozen=True)
class Sources:
    """The data of a figure: the folder of tables, and the training log of each trained experiment."""

    tables: Path
    training_logs: Mapping[str, Path]


@dataclass(frozen=True)
class Subject:
    """What a figure is about; of ``metrics`` and ``thresholds`` the primary one comes first.

    ``design`` has each group of experiments as one (see `usertune.reporting.shown`), and ``members`` their experiments.
    """

    design: ComparisonDesign
    members: Mapping[str, tuple[str, ...]]
    metrics: Sequence[Metric]
    thresholds: Sequence[float]
    styles: Mapping[str, Style]
    sources: Sources
    names: Sequence[str]
    groups: pd.DataFrame | None

    def table(self, name: str) -> pd.DataFrame:
        """Read a table of the comparison, with the experiments of the design.

        Raises:
            UserError: it is missing or malformed, or covers other experiments than the design.
        """
        path = self.sources.tables / name
        table = read_table(path)
        require_experiments(table, path, self.names)
        return merged(table, name, self.members, self.groups)


def subject_of(recipe: FigureRecipe, sources: Sources) -> Subject:
    """Return what the recipe of a figure says about it."""
    members = members_of(recipe, sources.tables)
    own = styles(recipe, recipe.colours)
    return Subject(
        design=recipe.model_copy(update={"experiments": shown_experiments(recipe, members)}),
        members=members,
        metrics=recipe.metrics,
        thresholds=recipe.thresholds,
        styles={label: own[names[0]] for label, names in members.items()},
        sources=sources,
        names=recipe.names,
        groups=read_table(sources.tables / table_names.GROUPS) if recipe.groups else None,
    )


def write_figure(draw: Callable[[Subject], Figure], subject: Subject, svg: Path, png: Path) -> None:
    """Draw a figure in the style of the package, independent of the user's settings, and write it as SVG and PNG."""
    with mpl.rc_context():
        # A matplotlibrc of the user must not change the figure.
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = draw(subject)
        FigureCanvasAgg(figure)
        for path, options in (
            (svg, {"format": "svg", "metadata": {"Date": None, "Creator": None}}),
            (png, {"format": "png", "dpi": PNG_DOTS_PER_INCH, "metadata": {"Software": None}}),
        ):
            content = io.BytesIO()
            figure.savefig(content, **options)
            with atomic_writer(path) as handle:
                handle.write(content.getvalue())


def new_figure(height: float) -> Figure:
    """Return an empty figure of the standard width; ``height`` in inches."""
    return Figure(figsize=(WIDTH_IN_INCHES, height), layout="constrained")


def say(axes: Axes, text: str) -> None:
    """Show a sentence in place of the axes, for a study that has nothing to draw."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=13, color=PALE)


def percent_scale(axes: Axes) -> None:
    """Write the fractions on the vertical axis as whole percentages."""
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def legend_above(axes: Axes, entries: int) -> None:
    """Put a legend with this number of entries above the axes, where it hides no data."""
    # A legend that is wider than the figure would leave no room for the axes.
    longest = max((len(label) for label in axes.get_legend_handles_labels()[1]), default=0)
    columns = max(1, min(entries, 5, LINE_OF_LEGEND // (longest + LETTERS_OF_MARK)))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=columns, borderaxespad=0, handletextpad=0.5)
