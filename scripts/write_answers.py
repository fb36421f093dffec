"""Write the tables of docs/answers.md, the forms in which answers are read, from the code."""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.core.files import write_text
from usertune.runtime import step_main
from usertune.tasks.points.page import with_examples


def main(arguments: argparse.Namespace) -> None:
    write_text(arguments.page, with_examples(arguments.page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    parser.add_argument("page", type=Path, metavar="FILE", help="the page whose tables are written")
    step_main.run(parser, main)
