r"""Compare the samples of the splits: identical and nearly identical screenshots, questions and answers.

Writes the overlaps of all pairs of splits as JSON (with examples), and a table next to it with the suffix .csv.
List the manifests of all users' prepared samples in a file, one per line. Example:

    ls results/data/user_*.manifest.json > samples.txt
    python scripts/leakage.py --recipe '{"step": "leakage", "splits": {"train": "11-13", "test": "1-2"}}' \
        --samples samples.txt --root demo/dataset --hashes results/store/image_hashes --out results/data/leakage.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.data.measure_leakage import measure_leakage
from usertune.data.recipe import LeakageRecipe
from usertune.runtime import step_main


def main(arguments: argparse.Namespace) -> None:
    measure_leakage(arguments.recipe, arguments.samples, arguments.root, arguments.hashes, arguments.out)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(parser, LeakageRecipe)
    step_main.add_list(parser, "--samples", "the manifests of all users' prepared samples")
    parser.add_argument("--root", required=True, type=Path, metavar="FOLDER", help="folder of the raw data")
    parser.add_argument(
        "--hashes", required=True, type=Path, metavar="FOLDER", help="store of perceptual hashes of images"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="JSON", help="output: the overlaps")
    step_main.run(parser, main)
