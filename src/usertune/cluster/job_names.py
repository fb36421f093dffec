"""The name and the journal by which a new run finds the SLURM jobs of a crashed one."""

from __future__ import annotations

import re
from pathlib import Path

from usertune.core.hashing import digest
from usertune.study.schema.study import Study

LONGEST_STUDY_NAME = 40
# In the results folder.
JOURNAL = "logs/slurm/jobs.jsonl"


def job_name(study: Study) -> str:
    """Return the name of all SLURM jobs of a study: the name of the study, and a digest of the path of its results."""
    path = digest(str(Path(study.results).absolute()))[:8]
    return f"usertune-{re.sub('[^A-Za-z0-9_-]', '_', study.name)[:LONGEST_STUDY_NAME]}-{path}"
