"""Take answers that were generated elsewhere (JSON Lines) as one experiment's predictions for a batch of users."""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.inference.collect_answers import collect_answers
from usertune.inference.recipe import AnswersRecipe
from usertune.runtime import step_main


def main(arguments: argparse.Namespace) -> None:
    collect_answers(arguments.recipe, arguments.experiment, arguments.answers, arguments.users, arguments.predictions)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(parser, AnswersRecipe)
    parser.add_argument("--experiment", required=True, metavar="NAME", help="name of the experiment")
    parser.add_argument(
        "--answers", required=True, metavar="PATH", help="file of answers, or a path with {user} for a file each"
    )
    step_main.add_list(parser, "--users", "the manifests of the users' data")
    parser.add_argument("--predictions", type=Path, required=True, metavar="JSON", help="predictions to write")
    step_main.run(parser, main)
