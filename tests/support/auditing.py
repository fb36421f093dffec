"""Auditing a study in a test, and reading the findings."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.synthetic_study import SyntheticStudy
from usertune.checks.audit import Audit, audit_study

LORA = "checkpoints/lora/manifest.json"


def audit(study: SyntheticStudy, whole: bool = True) -> Audit:
    """Audit as a new process would, which has not yet seen any folder."""
    return audit_study(study.study, whole)


def found(study: SyntheticStudy) -> list[tuple[str, str]]:
    """Return kind and path of all findings of an audit."""
    return [(finding.kind, finding.path) for finding in audit(study).findings]


def reasons(study: SyntheticStudy) -> list[str]:
    return [finding.reason for finding in audit(study).findings]


def with_changes(study: SyntheticStudy, **changes: Any) -> SyntheticStudy:
    """Return the same results under a study with other values in some sections."""
    return replace(study, changes=changes)


def touch(*paths: str | Path) -> None:
    for path in paths:
        os.utime(path, (1, 1))


def paths_of(study: SyntheticStudy, *steps: str) -> set[str]:
    return {path for path, result in study.results.items() if result.step in steps}
