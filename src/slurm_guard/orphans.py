"""SLURM jobs whose run is gone: killed, or cut off from the cluster. The next run goes on with them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from slurm_guard.job_states import MAY_COME_BACK
from slurm_guard.journal import Journal, submissions
from slurm_guard.queue import ListedJob

# Rule and wildcards, by name.
Identity = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Orphan:
    """A job that an earlier run submitted and did not see ending.

    Attributes:
        id: its number.
        key: digest of what was submitted.
        log: SLURM's log of it.
        adoptable: whether its end can stand for that of a new job; not so where it was cancelled.
    """

    id: str
    key: str
    log: str
    adoptable: bool


class Orphans:
    """The orphans of a study, each to be taken once. Usable by several threads.

    Args:
        listed: the study's jobs as SLURM lists them.
        journal: what was submitted, and seen ending.

    Attributes:
        unknown: jobs that carry the study's name, but whose work nobody knows: the run that submitted them died before
            it wrote them into the journal, or they are groups of jobs. They must have ended before others
            are submitted.
    """

    def __init__(self, listed: Mapping[str, ListedJob], journal: Journal) -> None:
        entries = list(journal.read())
        submitted = submissions(entries)
        seen_ending = {entry["job"] for entry in entries if entry["event"] == "ended"}
        cancelled = {entry["job"] for entry in entries if entry["event"] == "cancelled"}
        self._lock = threading.Lock()
        self._by_identity: dict[Identity, list[Orphan]] = {}
        self._going_on: list[str] = []
        self.unknown: list[str] = []
        for job in sorted(listed.values(), key=lambda job: _by_age(job.id)):
            # A job that ended well counts: nobody has seen yet what it did.
            ended = job.ended and job.state not in MAY_COME_BACK
            if job.id in seen_ending or (ended and (job.state != "COMPLETED" or job.id in cancelled)):
                continue
            entry = submitted.get(job.id)
            if entry is None or not entry["key"]:
                if not ended:
                    self.unknown.append(job.id)
                continue
            identity = (entry["rule"], tuple(sorted(entry["wildcards"].items())))
            orphan = Orphan(job.id, entry["key"], entry["log"], adoptable=job.id not in cancelled)
            self._by_identity.setdefault(identity, []).append(orphan)
            if not ended:
                self._going_on.append(job.id)

    def take(self, identity: Identity) -> list[Orphan]:
        """Return the orphans that do the work of a job, the newest first; each only once."""
        with self._lock:
            return self._by_identity.pop(identity, [])[::-1]

    def in_words(self, name: str) -> Iterator[str]:
        """Yield lines for people about the orphans that go on; ``name`` is that of the study's jobs."""
        if self._going_on:
            yield (
                f"SLURM jobs of an earlier run of this study: {', '.join(self._going_on)}. Those that this run needs "
                f"as they are it goes on with. To end them all instead: scancel --me --name={name}"
            )


def _by_age(job: str) -> tuple[int, str]:
    """Return what sorts the numbers of jobs by age; those of arrays are no plain numbers."""
    return len(job), job
