r"""Write the predictions of a prior for a batch of users: one point for many samples, without a model.

Example:

    python scripts/prior.py --experiment centre --users users.txt --predictions out/users_1-2.json \
        --recipe '{"step": "predict", "task": "grounding", "prior": {"of": "centre"}}'
"""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.inference.prior import PriorFiles, predict_prior
from usertune.inference.recipe import PriorRecipe
from usertune.runtime import step_main


def main(arguments: argparse.Namespace) -> None:
    files = PriorFiles(arguments.users, arguments.targets, arguments.predictions)
    predict_prior(arguments.recipe, arguments.experiment, files)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(parser, PriorRecipe)
    parser.add_argument("--experiment", required=True, metavar="NAME", help="name of the experiment")
    step_main.add_list(parser, "--users", "the manifests of the users' data")
    step_main.add_list(parser, "--targets", "the manifests of the training users' data", required=False)
    parser.add_argument("--predictions", type=Path, required=True, metavar="JSON", help="predictions to write")
    step_main.run(parser, main)
