"""Write the files that are derived from the code: the study's JSON schema and the tables of docs/answers.md.

Editors use schemas/study.schema.json to check and complete config.yaml. docs/answers.md lists the forms in which
answers are read. Run it in a copy of the repository after a change to the study's keys or to the parser:

    usertune schema
"""

from __future__ import annotations

import argparse
from pathlib import Path

from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.study.load import schema_text
from usertune.tasks.points.page import with_examples

SCHEMA = Path("schemas/study.schema.json")
PAGE = Path("docs/answers.md")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune schema``."""
    parser.add_argument(
        "repository", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="default: the current folder"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the schema and the tables."""
    page = arguments.repository / PAGE
    if not page.is_file():
        raise UserError(f"{page}: there is no such file; run this in a copy of usertune's repository")
    text = with_examples(page.read_text(encoding="utf-8"))
    write_text(arguments.repository / SCHEMA, schema_text())
    write_text(page, text)
