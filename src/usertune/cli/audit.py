"""Check every result of a study: recompute its fingerprint, and list what does not hold.

The list names results that are missing, stale (made with other settings, or from other inputs than those there now),
mismatched (of another experiment or user) or modified since they were made. Examples:

    usertune audit
    usertune audit --study configs/mine.yaml

Exit code: 0 if every result is what the study says, else 2.
"""

from __future__ import annotations

import argparse

from usertune.checks.audit import audit_study, in_words
from usertune.cli.study_arguments import add_study, study_of
from usertune.core.errors import UserError
from usertune.pipeline.results_folder import check_owner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune audit``."""
    add_study(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print what the audit found; end with an error if it found anything."""
    study = study_of(arguments)
    check_owner(study)
    audit = audit_study(study)
    if audit.findings:
        raise UserError(in_words(audit))
    print(in_words(audit))
