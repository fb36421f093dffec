"""Make a figure by its name; only the module of that figure is imported."""

from __future__ import annotations

from pathlib import Path

from usertune.core.hashing import digest_file
from usertune.core.manifest import read_manifest, step_manifest, write_result
from usertune.core.step_names import FIGURE
from usertune.evaluation.table_names import MANIFEST
from usertune.reporting.figures.catalogue import FIGURES
from usertune.reporting.figures.sheet import Sources, subject_of, write_figure
from usertune.reporting.recipe import FigureRecipe
from usertune.runtime.provenance import current_provenance


def make_figure(recipe: FigureRecipe, name: str, sources: Sources, manifest_file: Path) -> None:
    """Draw the figure called ``name`` (one of `FIGURES`), and write its files and their manifest.

    Args:
        recipe: what is compared, and the colours of experiments in this figure.
        name: which figure.
        sources: the tables and training logs that it is drawn from.
        manifest_file: JSON to write, last; the files of the figure are written next to it, see
            `usertune.reporting.figure_files`.

    Raises:
        UserError: there is no such figure, or a table or log is missing, foreign or
            malformed.
    """
    draw, subject = FIGURES.load(name), subject_of(recipe, sources)
    written = write_figure(draw, subject, name, manifest_file.parent)
    logs = {experiment: digest_file(path) for experiment, path in sources.training_logs.items()}
    manifest = {
        **step_manifest(recipe, {"tables": read_manifest(sources.tables / MANIFEST)["output"], "training_logs": logs}),
        "name": name,
        # What the report says of it.
        "title": FIGURES.constant(name, "TITLE"),
        "alternative": FIGURES.constant(name, "ALTERNATIVE"),
        "caption": subject.caption(FIGURES.constant(name, "CAPTION")),
        "provenance": [current_provenance(FIGURE, plug_ins=(FIGURES.module(name), *recipe.task_modules))],
        "files": {path.name: digest_file(path) for path in written},
    }
    write_result(manifest_file, manifest)
