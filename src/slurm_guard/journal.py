"""The journal of SLURM jobs: what was submitted, and how it ended. It outlives the process that submits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Journal:
    """A file of JSON lines, one for each event, that is only appended to.

    Events and what they hold besides ``event``, ``time`` (ISO 8601 with zone) and ``job`` (SLURM's number):

    - ``submitted``: ``key`` (digest of what was submitted), ``rule``, ``wildcards``, ``attempt``, ``log``
    - ``adopted``: the same; a job of an earlier run that this one has re-attached to
    - ``ended``: ``state``, ``submitted_at``, ``started_at``, ``ended_at``, ``nodes`` (SLURM's own)
    - ``cancelled``: a job that was cancelled from here, with ``message``
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: str, job: str, **more: Any) -> None:
        """Append an event; it is written by one call, so that events of several threads do not mix.

        Raises:
            OSError: the file cannot be written.
        """
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        line = json.dumps({"event": event, "time": now, "job": job, **more})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The line break comes first: it ends a line that a crash cut short.
        separator = "\n" if self.path.exists() and not self._ends_well() else ""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, f"{separator}{line}\n".encode())
        finally:
            os.close(descriptor)

    def read(self) -> Iterator[Entry]:
        """Yield all events in their order; lines that a crash cut short are skipped."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and {"event", "time", "job"} <= entry.keys():
                yield entry

    def _ends_well(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


def submissions(entries: Iterable[Entry]) -> Mapping[str, Entry]:
    """Return the last submission (or adoption) of every job among the entries of a journal, by its number."""
    return {entry["job"]: entry for entry in entries if entry["event"] in ("submitted", "adopted")}
