"""Logs of jobs: how their lines look, and who shows them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

FORMAT = "%(asctime)s %(levelname)s %(message)s"
# Set by a run that shows the progress and the warnings of its jobs itself: device and inode of its screen. A job with
# the same standard error then writes to its log only. (systemd names its journal the same way, in JOURNAL_STREAM.)
SCREEN_VARIABLE = "USERTUNE_SCREEN"
_HEAD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ([A-Z]+) (.*)", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """A message of a log. ``level`` is empty for lines that other programs wrote before the first message."""

    level: str
    text: str


def entries(text: str) -> list[Entry]:
    """Return the messages of a log, without times. A line without a head belongs to the message before it."""
    found: list[Entry] = []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            found.append(Entry(head[1], head[2]))
        elif found:
            found[-1] = replace(found[-1], text=f"{found[-1].text}\n{line}")
        else:
            found.append(Entry("", line))
    return found


def read_log(path: Path) -> list[Entry]:
    """Return the messages of a log; none if it cannot be read."""
    with suppress(OSError):
        return entries(path.read_text(encoding="utf-8", errors="replace"))
    return []


class LogReader:
    """Reads what is new in the log of a running job.

    Args:
        path: path of the log; it may not exist yet.
        since: seconds since the epoch; an older log is that of an earlier run.
    """

    def __init__(self, path: Path, since: float = 0.0) -> None:
        self.path = path
        self._since = since
        self._offset = 0

    def new(self) -> Iterator[Entry]:
        """Yield the messages since the last call. A log that cannot be read has none."""
        with suppress(OSError), self.path.open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_mtime < self._since:
                return
            # A program that starts again truncates its log.
            file.seek(self._offset if state.st_size >= self._offset else 0)
            complete, _, rest = file.read().rpartition(b"\n")
            self._offset = file.tell() - len(rest)
            yield from entries(complete.decode("utf-8", errors="replace"))


def screen_of(stream: IO[str]) -> str:
    """Return what `SCREEN_VARIABLE` holds for a stream; an empty text if it is no file."""
    try:
        state = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return ""
    return f"{state.st_dev}:{state.st_ino}"


def is_shown_by_a_run(stream: IO[str]) -> bool:
    """Whether a run shows the messages of this job on the screen that ``stream`` writes to."""
    screen = os.environ.get(SCREEN_VARIABLE)
    return bool(screen) and screen == screen_of(stream)
