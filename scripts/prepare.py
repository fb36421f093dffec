"""Check one user's raw samples and write them as canonical samples, with a manifest."""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.data.prepare import prepare_user
from usertune.runtime import step_main


def main(arguments: argparse.Namespace) -> None:
    prepare_user(
        arguments.recipe, arguments.root, arguments.user, arguments.samples, arguments.manifest, arguments.sources_state
    )


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(parser, "format, task, prompt and on_bad_sample of the study's dataset")
    parser.add_argument("--root", type=Path, required=True, metavar="FOLDER", help="folder of the raw data")
    parser.add_argument("--user", required=True, metavar="ID", help="id of the user")
    parser.add_argument("--samples", type=Path, required=True, metavar="JSONL", help="canonical samples to write")
    parser.add_argument("--manifest", type=Path, required=True, metavar="JSON", help="manifest to write")
    parser.add_argument("--sources-state", default="", metavar="DIGEST", help="state of the raw data, to be recorded")
    step_main.run(parser, main)
