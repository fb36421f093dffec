"""The arguments by which a subcommand is told its study."""

from __future__ import annotations

import argparse
from pathlib import Path

from usertune.study.load import load_study
from usertune.study.schema.study import Study


def add_study(parser: argparse.ArgumentParser) -> None:
    """Add ``--study`` and ``--config``, which mean what Snakemake's ``--configfile`` and ``--config`` mean."""
    parser.add_argument(
        "--study", nargs="+", type=Path, default=[Path("config.yaml")], metavar="YAML", help="default: config.yaml"
    )
    parser.add_argument(
        "--config", nargs="+", default=[], metavar="NAME=VALUE", help="the keys that Snakemake was given by --config"
    )


def study_of(arguments: argparse.Namespace) -> Study:
    """Return the study that ``--study`` and ``--config`` name.

    Raises:
        UserError: a file cannot be read, or the study is not valid.
    """
    return load_study(arguments.study, arguments.config)
