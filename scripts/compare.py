r"""Compare all experiments on all test users: tables for programs, for people and for papers.

Writes summary.csv, summary.md, summary.tex, differences.csv, users.csv and samples.csv into the folder --tables; for
studies with groups of experiments also groups.csv and groups.md, and for a hypothesis with comparisons hypothesis.csv.
List the metrics files (JSON) of every experiment and user in a file, one per line; the rows (CSV) are read from the
same folders. Example:

    ls results/scores/*/user_*.json > scores.txt
    python scripts/compare.py --recipe '{"step": "compare", "experiments": [{"name": "vanilla", "mode": "vanilla"}],
        "users": ["1", "2"], "task": "grounding", "thresholds": [140], "confidence": 0.95}' \
        --scores scores.txt --tables results/tables
"""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.evaluation.compare import compare
from usertune.evaluation.recipe import CompareRecipe
from usertune.runtime import step_main


def main(arguments: argparse.Namespace) -> None:
    compare(arguments.recipe, arguments.scores, arguments.tables, arguments.trainings, arguments.validation)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(parser, CompareRecipe)
    step_main.add_list(parser, "--scores", "the metrics of each experiment and user")
    step_main.add_list(
        parser, "--trainings", "manifests of the trainings whose validation losses choose settings", required=False
    )
    step_main.add_list(
        parser,
        "--validation",
        "metrics of the experiments whose answers for validation users choose settings",
        required=False,
    )
    parser.add_argument("--tables", required=True, type=Path, metavar="FOLDER", help="output: folder of the tables")
    step_main.run(parser, main)
