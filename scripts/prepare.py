r"""Check users' raw samples, and write canonical samples and a manifest for each user.

Users with an up-to-date manifest are skipped. With --folds, a user with too few samples for them is an error. In paths,
{user} stands for the user's id. Example:

    python scripts/prepare.py --root demo/dataset --users 1-3 \
        --recipe '{"step": "prepare", "format": "messages", "task": "grounding", "on_bad_sample": "error"}' \
        --samples 'out/user_{user}.jsonl' --manifest 'out/user_{user}.manifest.json'
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import environment  # noqa: F401

from usertune.core.errors import UserError
from usertune.data.folds import FoldSettings
from usertune.data.perceptual_hash import HashStore
from usertune.data.prepare import Shared, is_prepared, prepare_user
from usertune.data.raw_data import RawData, WatchImages
from usertune.data.readers.catalogue import get_reader
from usertune.data.recipe import PrepareRecipe
from usertune.runtime import step_main
from usertune.runtime.step_main import of_user


def main(arguments: argparse.Namespace) -> None:
    users = arguments.users
    # One reader, which looks through a file of many users once.
    reader = get_reader(arguments.recipe.format, arguments.root, arguments.recipe.options)
    raw_data = RawData(arguments.root, reader, arguments.watch_images)

    def files(user: str) -> tuple[Path, Path]:
        return of_user(arguments.samples, user), of_user(arguments.manifest, user)

    def is_left(user: str) -> bool:
        try:
            # Before the data are read, so that the next run sees a later edit; kept for the manifest.
            state = raw_data.state(user)
        except UserError:
            # Raised again below, for this user alone.
            return True
        return not is_prepared(arguments.recipe, user, *files(user), state)

    left = list(filter(is_left, users))
    if len(left) < len(users):
        step_main.logger.info("%d of %d users are already prepared", len(users) - len(left), len(users))
    shared = Shared(reader, HashStore(arguments.hashes) if arguments.hashes else None, arguments.folds)
    step_main.for_each_user(
        left,
        arguments.user_log,
        lambda user: prepare_user(arguments.recipe, arguments.root, user, *files(user), raw_data.state(user), shared),
    )


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(parser, PrepareRecipe)
    step_main.add_users(parser)
    parser.add_argument("--root", type=Path, required=True, metavar="FOLDER", help="folder of the raw data")
    parser.add_argument("--samples", required=True, metavar="JSONL", help="output for each user: canonical samples")
    parser.add_argument("--manifest", required=True, metavar="JSON", help="output for each user: the manifest")
    parser.add_argument(
        "--watch-images",
        choices=get_args(WatchImages),
        default="stat",
        help="what tells later that an image changed: size and time (stat, the default), bytes (content), or nothing",
    )
    parser.add_argument(
        "--hashes", type=Path, metavar="FOLDER", help="store of perceptual hashes of images (default: not computed)"
    )
    step_main.add_settings(parser, "--folds", FoldSettings, required=False)
    step_main.run(parser, main, record=False)
