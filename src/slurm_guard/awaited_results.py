"""Whether a job has written its results. The files show it seconds before SLURM's queue does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

# SLURM lists the job as ended some seconds after its files are there. If it takes longer, the cause is another one.
LOOKS = 5


class AwaitedResults:
    """The results of a submitted job: when they are written, the job is about to end.

    Args:
        files: the files that the job writes.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self._files = [str(file) for file in files]
        self._before = self._written_at()
        self._looks_left = LOOKS

    def just_written(self) -> bool:
        """Whether all of them have been written; true a few times only."""
        if self._looks_left and self._written_at() not in (None, self._before):
            self._looks_left -= 1
            return True
        return False

    def _written_at(self) -> int | None:
        """Return when the newest was written, in nanoseconds; None if one is missing."""
        try:
            return max((Path(file).stat().st_mtime_ns for file in self._files), default=None)
        except OSError:
            return None
