"""Draw the demo's raw dataset: synthetic phone screens of up to 83 users, each with a personal style.

Writes OUT/user_<id>.jsonl, OUT/images/user_<id>/*.png and, when all is there, OUT/dataset.json. The same
settings give the same files, and a user's files do not depend on which others are drawn. A second call with
the same settings returns at once; an interrupted one is continued; other settings replace the dataset.
Users 1-10 are the demo's test users, 74-83 its validation users, all others train users.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.core.errors import UserError
from usertune.core.users import parse_users
from usertune.demo.dataset import Counts, make_dataset
from usertune.runtime import step_main


def main(arguments: argparse.Namespace) -> None:
    """Draw what the arguments say."""
    names = parse_users(arguments.users)
    for name in names:
        if not name.isdigit():
            raise UserError(f"--users: {name!r} is not a number; the demo's users are numbers")
    counts = Counts(arguments.samples_train, arguments.samples_validation, arguments.samples_test)
    if not make_dataset(arguments.out, [int(name) for name in names], arguments.seed, counts):
        step_main.logger.info("%s is complete already", arguments.out)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the dataset")
    parser.add_argument("--users", default="1-83", help="users to draw, such as 1-10,74 (default: 1-83)")
    parser.add_argument("--seed", type=int, default=0, help="decides styles and screens (default: 0)")
    for split in ("train", "validation", "test"):
        parser.add_argument(
            f"--samples-{split}",
            type=int,
            default=getattr(Counts, split),
            metavar="N",
            help=f"samples of each {split} user (default: %(default)s)",
        )
    step_main.run(parser, main)
