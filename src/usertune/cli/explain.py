"""Say why a result would be made again, and what that would cost; nothing is run.

FILE is a file in the study's results folder; without it, the report is explained. Examples:

    usertune explain
    usertune explain results/scores/lora/user_7.csv
    usertune explain results/mine/report.html --study configs/mine.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

from usertune.checks.explain import explain, in_words
from usertune.checks.freshness import Freshness
from usertune.checks.preflight import check_sources
from usertune.cli.study_arguments import add_study, study_of
from usertune.core.errors import UserError
from usertune.pipeline.plug_ins import current_code
from usertune.pipeline.recipes import Recipes
from usertune.pipeline.results_folder import check_owner
from usertune.runtime.provenance import installed_versions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune explain``."""
    parser.add_argument("target", nargs="?", type=Path, metavar="FILE", help="a result (default: the report)")
    add_study(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print why a result would be made again."""
    for file in arguments.study:
        if arguments.target is None and file.suffix not in (".yaml", ".yml", ".json"):
            raise UserError(
                f"{file}: --study takes every word that follows it; write the result first: "
                f"usertune explain {file} --study {arguments.study[0]}"
            )
    study = study_of(arguments)
    check_owner(study)
    check_sources(study)
    freshness = Freshness(study, Recipes(study, current_code(study), installed_versions()))
    path = None if arguments.target is None else path_in(arguments.target, freshness.folder)
    print(in_words(explain(freshness, path)))


def path_in(target: Path, folder: Path) -> str:
    """Return a path relative to the results folder.

    Raises:
        UserError: it lies elsewhere.
    """
    try:
        return target.absolute().relative_to(folder.absolute()).as_posix()
    except ValueError:
        raise UserError(f"{target}: not in the study's results folder, {folder}") from None
