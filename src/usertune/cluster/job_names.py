"""The name of a study's SLURM jobs, by which they are found again after the process that submitted them is gone."""

from __future__ import annotations

import re
from pathlib import Path

from usertune.core.hashing import digest
from usertune.study.schema import Study

LONGEST_STUDY_NAME = 40


def job_name(study: Study) -> str:
    """Return the name that all SLURM jobs of a study have: the study's, and digits of where its results lie."""
    place = digest(str(Path(study.results).absolute()))[:8]
    return f"usertune-{re.sub('[^A-Za-z0-9_-]', '_', study.name)[:LONGEST_STUDY_NAME]}-{place}"
