"""How a study's SLURM jobs are found again after the process that submitted them has died: by name and journal."""

from __future__ import annotations

import re
from pathlib import Path

from usertune.core.hashing import digest
from usertune.study.schema.study import Study

LONGEST_STUDY_NAME = 40
# Below the folder of results.
JOURNAL = "logs/slurm/jobs.jsonl"


def job_name(study: Study) -> str:
    """Return the name that all SLURM jobs of a study have: the study's, and digits of where its results lie."""
    place = digest(str(Path(study.results).absolute()))[:8]
    return f"usertune-{re.sub('[^A-Za-z0-9_-]', '_', study.name)[:LONGEST_STUDY_NAME]}-{place}"
