"""Find the base model (a folder, or a hub name to download) and write a manifest with the digests of its files."""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.models.base_model import describe_base_model
from usertune.models.recipe import BaseModelRecipe
from usertune.runtime import step_main


def main(arguments: argparse.Namespace) -> None:
    describe_base_model(arguments.recipe, arguments.manifest, arguments.path)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(parser, BaseModelRecipe)
    parser.add_argument(
        "--path",
        metavar="PATH",
        help="folder of the base model, relative to the current one, or hub name (default: the recipe's)",
    )
    parser.add_argument("--manifest", type=Path, required=True, metavar="JSON", help="manifest to write")
    step_main.run(parser, main)
