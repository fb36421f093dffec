"""The figures that the report draws itself, since they show the costs, which it writes; by `FIGURES`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from usertune.evaluation.recipe import ComparisonDesign
from usertune.reporting.figures.catalogue import FIGURES
from usertune.reporting.recipe import FigureRecipe, ReportRecipe


@dataclass(frozen=True)
class Drawn:
    """A figure that was drawn: its files, and what the page says of it."""

    files: list[Path]
    title: str
    alternative: str
    caption: str


def draw_costs(recipe: ReportRecipe, tables: Path, folder: Path) -> Iterator[Drawn]:
    """Draw each figure of the recipe, and write its files; see `usertune.reporting.figure_files`.

    Args:
        recipe: which figures, with their colours, and what they compare.
        tables: the tables of the comparison and of the costs.
        folder: where to write.

    Raises:
        UserError: a table is missing or malformed.
    """
    # Imported here: the program's --help needs no matplotlib.
    from usertune.reporting.figures.sheet import Sources, subject_of, write_figure

    design = {key: getattr(recipe, key) for key in ComparisonDesign.model_fields}
    for name, colours in recipe.cost_figures.items():
        subject = subject_of(FigureRecipe(**{**design, "name": name, "colours": colours}), Sources(tables, {}))
        files = write_figure(FIGURES.load(name), subject, name, folder)
        title, alternative, caption = (FIGURES.constant(name, key) for key in ("TITLE", "ALTERNATIVE", "CAPTION"))
        yield Drawn(files, title, alternative, subject.caption(caption))


def modules_of(recipe: ReportRecipe) -> tuple[str, ...]:
    """Return the modules of the figures of the recipe, for the code version."""
    return tuple(FIGURES.module(name) for name in recipe.cost_figures)
