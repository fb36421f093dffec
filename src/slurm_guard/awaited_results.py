"""Whether a job has written its results, which files tell sooner than SLURM's queue."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

# They are there some seconds before SLURM says that the job has ended; if it takes longer, something else goes on.
LOOKS = 5


class AwaitedResults:
    """The results of a submitted job: once they have been written, its end is near.

    Args:
        files: the files that it is to write.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self._files = [str(file) for file in files]
        self._before = self._written_at()
        self._looks_left = LOOKS

    def just_written(self) -> bool:
        """Whether all of them have been written; said a few times only."""
        if self._looks_left and self._written_at() not in (None, self._before):
            self._looks_left -= 1
            return True
        return False

    def _written_at(self) -> int | None:
        """Return when the newest was written, in nanoseconds; None where one is missing."""
        try:
            return max((Path(file).stat().st_mtime_ns for file in self._files), default=None)
        except OSError:
            return None
