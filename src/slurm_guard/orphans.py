"""SLURM jobs of a run that died: killed, or cut off from the cluster. The next run re-attaches to them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from slurm_guard.job_states import MAY_COME_BACK
from slurm_guard.journal import Journal, submissions
from slurm_guard.queue import ListedJob

# Rule and wildcards, by name.
Identity = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Orphan:
    """A job that an earlier run submitted and did not see end.

    Attributes:
        id: its number.
        key: digest of what was submitted.
        log: SLURM's log of it.
        adoptable: whether a new run can re-attach to it; not if it was cancelled.
    """

    id: str
    key: str
    log: str
    adoptable: bool


class Orphans:
    """The orphans under one job name, each to be taken once. Usable by several threads.

    Args:
        listed: the jobs of this name, as SLURM lists them.
        journal: what was submitted, and seen to end.

    Attributes:
        unknown: jobs of this name whose work nobody knows: the run that submitted them died before it wrote them into
            the journal, or they are groups of jobs. They must end before others are submitted.
    """

    def __init__(self, listed: Mapping[str, ListedJob], journal: Journal) -> None:
        entries = list(journal.read())
        submitted = submissions(entries)
        seen_ending = {entry["job"] for entry in entries if entry["event"] == "ended"}
        cancelled = {entry["job"] for entry in entries if entry["event"] == "cancelled"}
        self._lock = threading.Lock()
        self._by_identity: dict[Identity, list[Orphan]] = {}
        self._active: list[str] = []
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
                self._active.append(job.id)

    def take(self, identity: Identity) -> list[Orphan]:
        """Return the orphans that do the work of a job, the newest first; each only once."""
        with self._lock:
            return self._by_identity.pop(identity, [])[::-1]

    def describe(self, name: str) -> str | None:
        """Return a message about the orphans that wait or run, None without any; ``name`` is the name of the jobs."""
        if not self._active:
            return None
        return (
            f"SLURM jobs of an earlier run: {', '.join(self._active)}. This run re-attaches to those that it needs "
            f"unchanged. To end them all instead: scancel --me --name={name}"
        )


def _by_age(job: str) -> tuple[int, str]:
    """Return what sorts the numbers of jobs by age; those of arrays are no plain numbers."""
    return len(job), job
