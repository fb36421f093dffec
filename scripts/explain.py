"""Say why a result would be made again, and what that would cost; nothing is run.

The target is a file below the study's folder of results; the report, where none is given. Examples:

    python scripts/explain.py
    python scripts/explain.py results/scores/lora/user_7.csv
    python scripts/explain.py results/mine/report.html --study configs/mine.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.checks.explain import explain, in_words
from usertune.checks.freshness import Freshness
from usertune.checks.sources import check_sources
from usertune.core.errors import UserError
from usertune.pipeline.recipes import Recipes, current_code
from usertune.pipeline.results_folder import check_owner
from usertune.runtime import step_main
from usertune.runtime.provenance import installed_versions
from usertune.study.load import load_study


def main(arguments: argparse.Namespace) -> None:
    for file in arguments.study:
        if arguments.target is None and file.suffix not in (".yaml", ".yml", ".json"):
            raise UserError(
                f"{file}: --study takes every word that follows it; write the result first: "
                f"python scripts/explain.py {file} --study {arguments.study[0]}"
            )
    study = load_study(arguments.study, arguments.config)
    check_owner(study)
    check_sources(study)
    freshness = Freshness(study, Recipes(study, current_code(), installed_versions()))
    place = None if arguments.target is None else place_in(arguments.target, freshness.folder)
    print(in_words(explain(freshness, place)))


def place_in(target: Path, folder: Path) -> str:
    """Return a path relative to the folder of results."""
    try:
        return target.absolute().relative_to(folder.absolute()).as_posix()
    except ValueError:
        raise UserError(f"{target}: not below the study's folder of results, {folder}") from None


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    parser.add_argument("target", nargs="?", type=Path, metavar="FILE", help="a result (default: the report)")
    step_main.add_study(parser)
    step_main.run(parser, main)
