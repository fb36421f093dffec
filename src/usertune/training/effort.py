"""What a training has cost so far, over all of its attempts: a small record in its working folder.

It is written every few seconds and at every checkpoint, so that of an attempt that is killed little is missing, and it
counts the steps too that a kill made necessary twice. Knows nothing of torch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.files import read_json, write_json

logger = logging.getLogger(__name__)

RECORD = "effort.json"
EVERY_SECONDS = 10.0
_COUNTS = ("wall_seconds", "steps", "samples", "tokens")


class Effort:
    """The record of one attempt, after those of the attempts before it.

    Args:
        work: working folder of the training.
        started: when the attempt began, by `time.monotonic`.
        how: micro-batch, processes and the like, which change the last digits.
    """

    def __init__(self, work: Path, started: float, how: Mapping[str, Any]) -> None:
        self._how = dict(how)
        self._path = work / RECORD
        self._started = started
        self._noted = 0.0
        self._earlier = _read(self._path)
        self.steps = self.samples = self.tokens = 0

    def note(self, at_once: bool = True) -> None:
        """Write the record; unless at once, only some seconds after the last time. A failure is ignored."""
        now = time.monotonic()
        if at_once or now - self._noted >= EVERY_SECONDS:
            self._noted = now
            with suppress(OSError):
                write_json(self._path, {"attempts": [*self._earlier, self._own()]})

    def total(self) -> dict[str, Any]:
        """Return the sums over all attempts, how many there were, and the ways in which they computed."""
        attempts = [*self._earlier, self._own()]
        sums = {key: sum(attempt[key] for attempt in attempts) for key in _COUNTS}
        ways = [attempt["how"] for attempt in attempts if attempt["how"]]
        distinct = [how for number, how in enumerate(ways) if how not in ways[:number]]
        return {
            "attempts": len(attempts),
            "computed_with": distinct,
            **sums,
            "wall_seconds": round(sums["wall_seconds"], 2),
        }

    def _own(self) -> dict[str, Any]:
        seconds = round(time.monotonic() - self._started, 2)
        return {
            "how": self._how,
            "wall_seconds": seconds,
            "steps": self.steps,
            "samples": self.samples,
            "tokens": self.tokens,
        }


def forget(work: Path) -> None:
    """Begin a new record: what comes next is another training, or this one is done and has its sums."""
    (work / RECORD).unlink(missing_ok=True)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        attempts = read_json(path)["attempts"] if path.exists() else []
        return [{**{key: attempt[key] + 0 for key in _COUNTS}, "how": attempt["how"]} for attempt in attempts]
    except (UserError, KeyError, TypeError) as problem:
        logger.warning("%s: not used: %s", path, problem)
        return []
