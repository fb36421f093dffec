"""Write what is derived from the code: the study's JSON schema and the tables of docs/answers.md and docs/data.md.

Editors use schemas/study.schema.json to check and complete config.yaml. docs/answers.md lists the forms in which
answers are read, and docs/data.md the formats of raw data and their options. Run it in a copy of the repository after a
change to the study's keys, to the parser or to a reader:

    usertune schema
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.data.page import with_formats
from usertune.study.load import schema_text
from usertune.tasks.points.page import with_examples

SCHEMA = Path("schemas/study.schema.json")
# Page -> what updates its tables.
PAGES: dict[Path, Callable[[str], str]] = {
    Path("docs/answers.md"): with_examples,
    Path("docs/data.md"): with_formats,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune schema``."""
    parser.add_argument(
        "repository", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="default: the current folder"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the schema and the tables."""
    texts: dict[Path, str] = {}
    for name, updated in PAGES.items():
        page = arguments.repository / name
        if not page.is_file():
            raise UserError(f"{page}: there is no such file; run this in a copy of usertune's repository")
        texts[page] = updated(page.read_text(encoding="utf-8"))
    write_text(arguments.repository / SCHEMA, schema_text())
    for page, text in texts.items():
        write_text(page, text)
