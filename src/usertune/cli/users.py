"""List who is in which split of a study, and under which id in the data.

Shares, rest and files of ids are shown as the users that they stand for. Where a format gives users other ids than the
data (dataset.options: renumber), both are shown. It reads names of folders and files only. Examples:

    usertune users
    usertune users --study configs/mine.yaml --csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from usertune.checks.preflight import check_sources
from usertune.cli.study_arguments import add_study, study_of
from usertune.core.users import format_users
from usertune.data.reader import RenumbersUsers
from usertune.data.readers.catalogue import get_reader
from usertune.study.files import SPLITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune users``."""
    add_study(parser)
    parser.add_argument("--csv", action="store_true", help="one line for each user: split, user, id in the data")


def run(arguments: argparse.Namespace) -> None:
    """Print the users of each split; end with an error if one has no raw data."""
    study = study_of(arguments)
    check_sources(study, base_model=False)
    dataset = study.dataset
    reader = get_reader(dataset.format, Path(dataset.root), dataset.options)
    raw = {user: reader.raw_id(user) if isinstance(reader, RenumbersUsers) else user for user in study.all_users}
    if arguments.csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(["split", "user", "id_in_data"])
        table.writerows([split, user, raw[user]] for split in SPLITS for user in getattr(study.users, split))
        return
    for split in SPLITS:
        users = getattr(study.users, split)
        line = f"{split}: {len(users)} users" + (f": {format_users(users)}" if users else "")
        if any(raw[user] != user for user in users):
            line += f" (in the data: {format_users([raw[user] for user in users])})"
        print(line)
