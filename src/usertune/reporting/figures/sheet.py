"""What a figure is about, and how it is laid out and written.

Figures are kept out of the global state of pyplot, and equal inputs give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from usertune.core.files import atomic_writer
from usertune.core.manifest import read_manifest
from usertune.evaluation import table_names
from usertune.evaluation.recipe import ComparisonDesign
from usertune.evaluation.rows import read_rows
from usertune.evaluation.tables import read_table, require_experiments
from usertune.reporting.figure_files import each_file
from usertune.reporting.recipe import FigureRecipe
from usertune.reporting.shown import members_of, merged, shown_experiments
from usertune.reporting.style import Style, styles
from usertune.tasks.metrics import Metric, threshold_label

PNG_DOTS_PER_INCH = 300
# Columns of a page -> inches. Fonts have the same size in both.
WIDTHS = {1: 3.3, 2: 6.9}
FONT, SMALL_FONT = 7.5, 6.5
INK, PALE, GRID = "#22262e", "#8a919e", "#e6e8ec"

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": PALE,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": FONT,
    "font.family": ["DejaVu Sans"],
    "font.size": FONT,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "hatch.color": PALE,
    "legend.fontsize": SMALL_FONT,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    # Type 3 fonts, which are matplotlib's default, are refused by some publishers. Letters of an SVG are paths: it
    # looks the same without the font.
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "usertune",
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": SMALL_FONT,
    "xtick.major.size": 2.5,
    "ytick.color": INK,
    "ytick.labelsize": SMALL_FONT,
    "ytick.major.size": 2.5,
}
METADATA: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
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
    ``columns`` is the width of the figure, see `WIDTHS`; ``read`` keeps the tables for the other width.
    """

    design: ComparisonDesign
    members: Mapping[str, tuple[str, ...]]
    metrics: Sequence[Metric]
    thresholds: Sequence[float]
    styles: Mapping[str, Style]
    sources: Sources
    names: Sequence[str]
    groups: pd.DataFrame | None
    columns: int = 2
    read: dict[Path, pd.DataFrame] = field(default_factory=dict)

    @property
    def primary(self) -> Metric:
        """The primary metric."""
        return self.metrics[0]

    @property
    def narrow(self) -> bool:
        """Whether the figure is as wide as one column."""
        return self.columns == 1

    @property
    def reference(self) -> str:
        """The experiment that others are compared with: the baseline, or else the first."""
        return self.design.baseline or self.design.names[0]

    def table(self, name: str) -> pd.DataFrame:
        """Read a table of the comparison, with the experiments of the design.

        Raises:
            UserError: it is missing or malformed, or covers other experiments than the design.
        """
        path = self.sources.tables / name
        if path not in self.read:
            table = read_rows(path) if name == table_names.SAMPLES else read_table(path)
            require_experiments(table, path, self.names)
            self.read[path] = merged(table, name, self.members, self.groups)
        return self.read[path]

    def has_table(self, name: str) -> bool:
        """Whether the comparison of this study has a table that only some have; others may have left theirs here."""
        return name in read_manifest(self.sources.tables / table_names.MANIFEST).get("files", ())

    @cached_property
    def by_user(self) -> pd.DataFrame:
        """The primary metric of each user (rows) in each experiment (columns), and NaN where there is none.

        Users are sorted by the reference, then by their mean.

        Raises:
            UserError: see `table`.
        """
        grid = self.table(table_names.USERS).pivot(index="user", columns="experiment", values=self.primary.name)
        grid = grid.loc[list(self.design.users), self.design.names]
        order = pd.DataFrame({"reference": grid[self.reference], "mean": grid.mean(axis=1)})
        return grid.loc[order.sort_values(["reference", "mean"], ascending=False, kind="stable").index]

    def caption(self, text: str) -> str:
        """Fill the fields of a caption: ``{users}``, ``{samples}``, ``{interval}``, ``{metric}`` and ``{reference}``.

        Raises:
            UserError: see `table`.
        """
        if "{" not in text:
            return text
        summary = self.table(table_names.SUMMARY)
        users, samples = int(summary["users"].max()), int(summary["samples"].max())
        within = f" (within {threshold_label(self.primary.threshold)})" if self.primary.threshold is not None else ""
        found = text.format(
            users=f"{users} test user{'s' * (users != 1)}",
            samples=f"{samples:,} sample{'s' * (samples != 1)}",
            interval=f"{100 * summary['confidence'].iloc[0]:g} % interval",
            metric=f"{self.primary.title}{within}",
            reference=self.reference,
        )
        return found[0].upper() + found[1:]


def subject_of(recipe: FigureRecipe, sources: Sources, columns: int = 2) -> Subject:
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
        columns=columns,
    )


def write_figure(draw: Callable[[Subject], Figure], subject: Subject, name: str, folder: Path) -> list[Path]:
    """Draw a figure in each width, and write all its files; see `usertune.reporting.figure_files`.

    The style is that of the package, independent of the user's settings.
    """
    written = []
    with mpl.rc_context():
        # A matplotlibrc of the user must not change the figure.
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        drawn: dict[int, Figure] = {}
        for columns, kind, file in each_file(name):
            if columns not in drawn:
                drawn[columns] = laid_out(draw(replace(subject, columns=columns)))
            with atomic_writer(folder / file) as handle:
                handle.write(content_of(drawn[columns], kind))
            written.append(folder / file)
    return written


def content_of(figure: Figure, kind: str) -> bytes:
    """Return the content of a figure's file of this format."""
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=PNG_DOTS_PER_INCH, metadata=METADATA[kind])
    return content.getvalue()


def laid_out(figure: Figure) -> Figure:
    """Find the places of the axes once, not again for every format."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    # Not "none", which leaves an engine that does nothing, but for which savefig draws everything once more.
    figure.set_layout_engine(None)
    return figure


def new_figure(height: float, columns: int = 2) -> Figure:
    """Return an empty figure as wide as so many columns (see `WIDTHS`); ``height`` in inches."""
    engine = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02)
    return Figure(figsize=(WIDTHS[columns], height), layout=engine)


def short_names(names: Iterable[str], most: int = 10) -> list[str]:
    """Return names of at most ``most`` letters, still different from one another; a UUID becomes ``3f2a91c0…``.

    Names are cut at the end, in the middle or at the beginning, whichever keeps them different. If none does, they get
    numbers.
    """
    full = list(names)
    head = most // 2
    tail = most - 1 - head
    cuts: tuple[Callable[[str], str], ...] = (
        lambda name: f"{name[: most - 1]}…",
        lambda name: f"{name[:head]}…{name[-tail:]}",
        lambda name: f"…{name[1 - most :]}",
    )
    for cut in cuts:
        found = [name if len(name) <= most else cut(name) for name in full]
        if len(set(found)) == len(set(full)):
            return found
    return [f"{name[: most - 1 - len(str(place))]}…{place}" for place, name in enumerate(full, 1)]
