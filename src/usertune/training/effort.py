"""Record of the cost of a training over all of its attempts, in its working folder.

It is written every few seconds and at every checkpoint, so a kill loses little of it. Steps repeated after a kill count
again. Does not import torch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.files import read_json, write_json
from usertune.runtime.energy import added

logger = logging.getLogger(__name__)

RECORD = "effort.json"
EVERY_SECONDS = 10.0
_COUNTS = ("wall_seconds", "steps", "samples", "tokens")


class Effort:
    """The record of one attempt, appended to those of earlier attempts.

    Args:
        work: working folder of the training.
        started: start of the attempt, by `time.monotonic`, in seconds.
        how: micro-batch size, world size and other settings that change only the last digits.
    """

    def __init__(self, work: Path, started: float, how: Mapping[str, Any]) -> None:
        self._how = dict(how)
        self._path = work / RECORD
        self._started = started
        self._noted = 0.0
        self._earlier = _read(self._path)
        self.steps = self.samples = self.tokens = 0
        self.energy: Callable[[], float | None] = lambda: None
        """Returns the energy of this attempt so far, in joules, over all processes; None if it is not known."""

    def note(self, at_once: bool = True) -> None:
        """Write the record; unless ``at_once``, only `EVERY_SECONDS` after the last time. An `OSError` is ignored."""
        now = time.monotonic()
        if at_once or now - self._noted >= EVERY_SECONDS:
            self._noted = now
            with suppress(OSError):
                write_json(self._path, {"attempts": [*self._earlier, self._own()]})

    def total(self) -> dict[str, Any]:
        """Return the sums over all attempts, the number of attempts, and each distinct ``how`` (``computed_with``)."""
        attempts = [*self._earlier, self._own()]
        sums = {key: sum(attempt[key] for attempt in attempts) for key in _COUNTS}
        ways = [attempt["how"] for attempt in attempts if attempt["how"]]
        distinct = [how for number, how in enumerate(ways) if how not in ways[:number]]
        return {
            "attempts": len(attempts),
            "computed_with": distinct,
            **sums,
            "energy_joules": added([attempt["energy_joules"] for attempt in attempts]),
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
            "energy_joules": self.energy(),
        }


def forget(work: Path) -> None:
    """Delete the record, before another training or after this one."""
    (work / RECORD).unlink(missing_ok=True)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        attempts = read_json(path)["attempts"] if path.exists() else []
        return [
            {
                **{key: attempt[key] + 0 for key in _COUNTS},
                # Older releases recorded none.
                "energy_joules": attempt.get("energy_joules"),
                "how": attempt["how"],
            }
            for attempt in attempts
        ]
    except (UserError, KeyError, TypeError) as problem:
        logger.warning("%s: ignored: %s", path, problem)
        return []
