"""Progress of long work, as log lines and in the job record."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from usertune.runtime import job_record

logger = logging.getLogger(__name__)

EVERY_SECONDS = 5.0


# Units finished before the current part of a job, and those of the whole job.
_whole: tuple[int, int] | None = None


@contextmanager
def part_of(before: int, total: int) -> Iterator[None]:
    """Let `Progress` inside the block count a part of a job.

    Args:
        before: units that earlier parts finished.
        total: units of all parts.
    """
    global _whole
    _whole = before, total
    try:
        yield
    finally:
        _whole = None


class Progress:
    """Logs progress, speed and remaining time every few seconds.

    Args:
        total: number of all units.
        unit: what is counted, in the plural.
        done: units that an earlier run finished; they do not count for the speed.
    """

    def __init__(self, total: int, unit: str, done: int = 0) -> None:
        before, total = _whole or (0, total)
        done += before
        self.total = total
        self.unit = unit
        self.done = self._before = done
        self._started = self._last_said = time.monotonic()
        job_record.note_progress(unit, done, total, None)

    def advance(self, amount: int) -> None:
        """Add ``amount`` finished units."""
        self.done += amount
        now = time.monotonic()
        if now - self._last_said < EVERY_SECONDS and self.done < self.total:
            return
        self._last_said = now
        rate = (self.done - self._before) / max(now - self._started, 1e-9)
        left = (self.total - self.done) / rate
        job_record.note_progress(self.unit, self.done, self.total, rate)
        logger.info(
            "%d of %d %s, %.1f %s/s, about %.0f s left", self.done, self.total, self.unit, rate, self.unit, left
        )
