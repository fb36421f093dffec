"""Check weights that an experiment does not train itself, and write their manifest. Nothing is copied."""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.models.external_weights import WeightFiles, describe_weights
from usertune.models.recipe import OtherWeightsRecipe
from usertune.runtime import step_main


def main(arguments: argparse.Namespace) -> None:
    files = WeightFiles(arguments.base_model, arguments.folder, arguments.manifest, arguments.training)
    describe_weights(arguments.recipe, arguments.experiment, files)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(parser, OtherWeightsRecipe)
    parser.add_argument("--experiment", required=True, metavar="NAME", help="name of the experiment")
    parser.add_argument("--base-model", type=Path, required=True, metavar="JSON", help="manifest of the base model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--folder", type=Path, metavar="FOLDER", help="folder of weights from elsewhere")
    source.add_argument("--training", type=Path, metavar="JSON", help="manifest of the training that kept the weights")
    parser.add_argument("--manifest", type=Path, required=True, metavar="JSON", help="manifest to write")
    step_main.run(parser, main)
