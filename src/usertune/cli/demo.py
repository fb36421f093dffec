"""Make what the demo starts from: its synthetic screens, or its tiny base model.

The screens are drawn once by make demo. The base model is part of the repository (demo/base). Examples:

    usertune demo data demo/dataset
    usertune demo pretrain demo/base --seed 0
"""

from __future__ import annotations

import argparse
from pathlib import Path

from usertune.core.errors import UserError
from usertune.core.users import parse_users
from usertune.demo.dataset import Counts, make_dataset
from usertune.runtime import step_main

DATA = """\
Draw the demo's raw dataset: synthetic phone screens of up to 83 users, each with a personal style.

Writes OUT/user_<id>.jsonl, OUT/images/user_<id>/*.png and, at the end, OUT/dataset.json. The same settings give the
same files, and a user's files do not depend on which other users are drawn. A second call with the same settings
returns at once; an interrupted call is continued; other settings replace the dataset. Users 1-10 are the demo's test
users, 74-83 its validation users, all others train users.
"""
PRETRAIN = """\
Make the demo's base model: a tiny real Qwen3-VL that finds coloured icons on generic phone screens.

Writes model, processor, pretraining.json and README.md to OUT. It takes 10-15 minutes on one CPU core; --threads sets
how many are used. The same seed, threads and package versions give the same model.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune demo``: those of its two subcommands."""
    subcommands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    data = subcommands.add_parser("data", help="draw the synthetic screens", description=DATA)
    data.set_defaults(make=draw)
    data.add_argument("out", type=Path, metavar="OUT", help="folder for the dataset")
    data.add_argument("--users", default="1-83", help="users to draw, such as 1-10,74 (default: 1-83)")
    data.add_argument("--seed", type=int, default=0, help="decides styles and screens (default: 0)")
    for split in ("train", "validation", "test"):
        data.add_argument(
            f"--samples-{split}",
            type=int,
            default=getattr(Counts, split),
            metavar="N",
            help=f"samples of each {split} user (default: %(default)s)",
        )
    base = subcommands.add_parser("pretrain", help="make the tiny base model", description=PRETRAIN)
    base.set_defaults(make=pretrain_base)
    base.add_argument("out", type=Path, metavar="OUT", help="folder for the model")
    base.add_argument("--seed", type=int, default=0, help="decides weights and screens (default: 0)")
    base.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    base.add_argument("--steps-scale", type=float, default=1.0, help="multiplies all step counts")


def run(arguments: argparse.Namespace) -> None:
    """Make what the subcommand names."""
    arguments.make(arguments)


def draw(arguments: argparse.Namespace) -> None:
    """Draw the dataset.

    Raises:
        UserError: a user is not a number.
    """
    names = parse_users(arguments.users)
    for name in names:
        if not name.isdigit():
            raise UserError(f"--users: {name!r} is not a number; the demo's users are numbers")
    counts = Counts(arguments.samples_train, arguments.samples_validation, arguments.samples_test)
    if not make_dataset(arguments.out, [int(name) for name in names], arguments.seed, counts):
        step_main.logger.info("%s is complete already", arguments.out)


def pretrain_base(arguments: argparse.Namespace) -> None:
    """Pretrain the base model."""
    # Not at the top: of all subcommands this one alone needs torch.
    import torch

    from usertune.demo.pretraining import pretrain

    torch.set_num_threads(arguments.threads)
    record = pretrain(arguments.out, arguments.seed, arguments.steps_scale)
    step_main.logger.info("held-out accuracy: %.3f", record["held_out"]["accuracy"])
