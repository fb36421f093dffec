"""Check the raw data of all users and list every problem; nothing is written.

The workflow runs this after one user's data failed the check, for the users that it had not reached. To check the data
and keep the prepared samples: snakemake check --profile local. Examples:

    usertune check
    usertune check --study configs/mine.yaml --users 1-3,alice

Exit code: 0 if all data can be used, else 2.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from usertune.cli.study_arguments import add_study, study_of
from usertune.core.errors import UserError
from usertune.core.users import parse_users
from usertune.data.check import bad_users, in_words
from usertune.data.recipe import PrepareRecipe
from usertune.pipeline.recipes import Recipes
from usertune.study.copy import read_resolved


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune check``."""
    add_study(parser)
    parser.add_argument("--users", metavar="USERS", help="such as 1-3,7,alice (default: all users of the study)")
    parser.add_argument(
        "--processes",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="users that are checked at once (default: the number of cores)",
    )
    parser.add_argument("--users-file", type=Path, metavar="FILE", help="the same, one user a line")
    parser.add_argument("--resolved-study", type=Path, metavar="JSON", help="used by the workflow, instead of --study")


def run(arguments: argparse.Namespace) -> None:
    """Print the problems of all users; end with an error if there are any."""
    resolved = arguments.resolved_study
    study = study_of(arguments) if resolved is None else read_resolved(resolved)
    users = list(study.all_users) if arguments.users is None else parse_users(arguments.users)
    if arguments.users_file is not None:
        users = arguments.users_file.read_text(encoding="utf-8").splitlines()
    if others := [user for user in users if user not in study.all_users]:
        raise UserError(f"--users: {others[0]} is not a user of this study")
    bad = bad_users(PrepareRecipe.parse(Recipes(study).prepare()), Path(study.dataset.root), users, arguments.processes)
    if bad:
        raise UserError(in_words(bad, len(users)))
    print(in_words(bad, len(users)))
