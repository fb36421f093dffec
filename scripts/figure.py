r"""Draw one figure of the comparison, as SVG, PDF and PNG, for one and for two columns of a paper.

The files are written next to the manifest. Some figures need the training logs. Example:

    python scripts/figure.py --name loss_curves --tables results/tables \
        --recipe '{"step": "figure", "experiments": [{"name": "lora", "mode": "lora"}], "users": ["1"],
        "task": "grounding", "thresholds": [140]}' --training-log lora=results/checkpoints/lora/training_log.csv \
        --manifest results/figures/loss_curves.manifest.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.reporting.figures.sheet import Sources
from usertune.reporting.make_figure import make_figure
from usertune.reporting.recipe import FigureRecipe
from usertune.runtime import step_main
from usertune.study.schema.report import FIGURE_NAMES


def main(arguments: argparse.Namespace) -> None:
    sources = Sources(arguments.tables, dict(arguments.training_log))
    make_figure(arguments.recipe, arguments.name, sources, arguments.manifest)


def named_path(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"{text!r}: write TRAINING=FILE")
    return name, Path(path)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    # @FILE stands for the lines of a file: trainings on folds can be more than a command line holds.
    parser.fromfile_prefix_chars = "@"
    step_main.add_recipe(parser, FigureRecipe)
    parser.add_argument("--name", required=True, choices=FIGURE_NAMES, help="name of the figure")
    parser.add_argument("--tables", required=True, type=Path, metavar="FOLDER", help="the tables of the comparison")
    parser.add_argument(
        "--training-log", nargs="*", default=[], type=named_path, metavar="TRAINING=CSV",
        help="the log of each training: its experiment and, for one on folds, the users; or @FILE with one a line",
    )  # fmt: skip
    parser.add_argument("--manifest", required=True, type=Path, metavar="FILE", help="output: manifest of the figure")
    step_main.run(parser, main)
