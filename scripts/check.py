"""Check the raw data of a study's users, and report the problems of all of them; nothing is written.

The workflow runs this when a user's data did not pass, for the users whose turn had not come; to check the data and
keep what was checked: snakemake check --profile local. Examples:

    python scripts/check.py
    python scripts/check.py --study configs/mine.yaml --users 1-3,alice

Ends with exit code 0 if all data can be used, else with 2.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import environment  # noqa: F401

from usertune.core.errors import UserError
from usertune.core.users import parse_users
from usertune.data.check import bad_users, in_words
from usertune.pipeline.recipes import Recipes
from usertune.runtime import step_main
from usertune.study.load import load_study
from usertune.study.schema import Study


def main(arguments: argparse.Namespace) -> None:
    resolved = arguments.resolved_study
    study = load_study(arguments.study) if resolved is None else Study.model_validate_json(resolved)
    users = list(study.all_users) if arguments.users is None else parse_users(arguments.users)
    if others := [user for user in users if user not in study.all_users]:
        raise UserError(f"--users: {others[0]} is no user of this study")
    bad = bad_users(json.loads(Recipes(study).prepare()), Path(study.dataset.root), users, arguments.processes)
    if bad:
        raise UserError(in_words(bad, len(users)))
    print(in_words(bad, len(users)))


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    parser.add_argument(
        "--study", nargs="+", type=Path, default=[Path("config.yaml")], metavar="YAML", help="default: config.yaml"
    )
    parser.add_argument("--users", metavar="USERS", help="as in 1-3,7,alice (default: all of the study)")
    parser.add_argument(
        "--processes",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="users that are checked at once (default: the number of cores)",
    )
    parser.add_argument("--resolved-study", metavar="JSON", help="the whole study as JSON; used by the workflow")
    step_main.run(parser, main)
