"""Make a figure by its name; only the module of that figure is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from usertune.core.hashing import digest_file
from usertune.core.manifest import read_result, write_result
from usertune.core.step_fingerprints import figure_fingerprint
from usertune.core.step_names import FIGURE
from usertune.evaluation.table_names import MANIFEST
from usertune.reporting.figures.catalogue import FIGURES
from usertune.reporting.figures.sheet import Sources, subject_of, write_figure
from usertune.runtime.provenance import current_provenance
from usertune.tasks.catalogue import TASKS


def make_figure(
    recipe: Mapping[str, Any], name: str, sources: Sources, svg: Path, png: Path, manifest_file: Path
) -> None:
    """Draw the figure called ``name`` (one of `FIGURES`), and write it as SVG and as PNG, with a manifest.

    Args:
        recipe: keys ``experiments``, ``users``, ``task`` and ``thresholds`` as for the comparison; optional
            ``colours``, this figure's own as ``{experiment: "#rrggbb"}``.

    Raises:
        UserError: there is no such figure, the recipe is malformed, or a table or log is missing, foreign or
            malformed.
    """
    write_figure(FIGURES.load(name), subject_of(recipe, sources), svg, png)
    logs = {experiment: digest_file(path) for experiment, path in sources.training_logs.items()}
    manifest = {
        "step": FIGURE,
        "name": name,
        # What the report says of it.
        "title": FIGURES.constant(name, "TITLE"),
        "alternative": FIGURES.constant(name, "ALTERNATIVE"),
        "caption": FIGURES.constant(name, "CAPTION"),
        "recipe": dict(recipe),
        "fingerprint": figure_fingerprint(recipe, read_result(sources.tables / MANIFEST), logs),
        "provenance": [current_provenance(FIGURE, plug_ins=(FIGURES.module(name), TASKS.module(recipe["task"])))],
        "files": {path.name: digest_file(path) for path in (svg, png)},
    }
    write_result(manifest_file, manifest)
