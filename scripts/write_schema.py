"""Write the JSON schema of the study, which editors use to check and complete config.yaml."""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.core.files import write_text
from usertune.runtime import step_main
from usertune.study.load import schema_text


def main(arguments: argparse.Namespace) -> None:
    write_text(arguments.out, schema_text())


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    parser.add_argument("out", type=Path, metavar="FILE", help="schema to write")
    step_main.run(parser, main)
