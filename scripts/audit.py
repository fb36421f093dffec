"""Audit the results of a study before its report: recompute every fingerprint, and fail on any mismatch.

The workflow runs this script. To audit by hand: usertune audit
"""

from __future__ import annotations

import argparse
from pathlib import Path

import environment  # noqa: F401

from usertune.checks.audit import run_audit
from usertune.pipeline.recipes import AuditRecipe
from usertune.runtime import step_main
from usertune.study.copy import read_resolved


def main(arguments: argparse.Namespace) -> None:
    run_audit(read_resolved(arguments.resolved_study), arguments.recipe, arguments.out)


if __name__ == "__main__":
    parser = step_main.argument_parser(__doc__)
    step_main.add_recipe(parser, AuditRecipe)
    parser.add_argument("--resolved-study", type=Path, required=True, metavar="JSON", help="the study")
    parser.add_argument("--out", required=True, type=Path, metavar="JSON", help="output: the audit")
    step_main.run(parser, main)
