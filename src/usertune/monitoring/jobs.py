"""The known jobs of a study: their records, the journal of SLURM jobs, and the run that started them.

Any of these files can be missing, truncated or left by a process that no longer exists. Unreadable files are ignored.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from slurm_guard.journal import Journal
from slurm_guard.queue import ListedJob
from usertune.cluster.job_names import JOURNAL
from usertune.pipeline.layout import step_of_rule
from usertune.runtime.job_record import SIGN_OF_LIFE_SECONDS
from usertune.runtime.locks import RESULTS_HOLDER

# Clocks of two machines differ, and shared disks show files from other machines with a delay.
LOST_AFTER = timedelta(seconds=10 * SIGN_OF_LIFE_SECONDS)
# A process with a recorded number is the recorded process unless it is younger than the record.
CLOCK_TOLERANCE_SECONDS = 5.0
_HOLDER = re.compile(r"process (\d+) on (\S+), since (\S+)")


class HowFar(BaseModel):
    """The progress of a job. ``rate`` is in ``unit`` per second; ``at`` is the time of this progress."""

    model_config = ConfigDict(frozen=True)

    unit: str
    done: int
    total: int
    rate: float | None
    seconds_left: float | None
    at: AwareDatetime


class Attempt(BaseModel):
    """The record of an attempt at a job; ``updated`` is the time of its last update."""

    model_config = ConfigDict(frozen=True)

    attempt: int
    state: Literal["running", "ended", "stopped", "failed"]
    error: str | None
    process: int
    host: str
    slurm_job: str | None
    started: AwareDatetime
    updated: AwareDatetime
    ended: AwareDatetime | None
    model_loads: int = 0

    @property
    def last(self) -> datetime:
        """The time of its end or, if it has not ended, of its last update."""
        return self.ended or self.updated


class JobRecord(Attempt):
    """The record of a job: its newest attempt, and the outcome of earlier ones."""

    node: str | None
    gpus: tuple[str, ...] = ()
    progress: HowFar | None = None
    earlier: tuple[Attempt, ...] = ()

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Return all recorded attempts, the newest last."""
        return (*self.earlier, self)


@dataclass
class Submission:
    """A job submitted to SLURM, from the entries of the journal.

    Attributes:
        job: SLURM's job number.
        rule, wildcards, attempt, log: its task, and the log of SLURM.
        noted: when the run that submitted it recorded it.
        adopted: when a later run last re-attached to it.
        seen: when a run detected its end.
        state: its final state in SLURM; None while unknown.
        queued, started, ended: times from SLURM.
        nodes: where it ran.
        cancelled: whether a run cancelled it.
    """

    job: str
    rule: str
    wildcards: Mapping[str, str]
    attempt: int
    log: str
    noted: datetime
    adopted: datetime | None = None
    seen: datetime | None = None
    state: str | None = None
    queued: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    nodes: str = ""
    cancelled: bool = False

    @property
    def step(self) -> str:
        """Name of its step."""
        return step_of_rule(self.rule)


@dataclass(frozen=True)
class Run:
    """The newest run on a results folder. ``alive`` is None if it ran on another machine."""

    process: int
    host: str
    since: datetime
    alive: bool | None


@dataclass
class Jobs:
    """The known jobs of a study at one time.

    Attributes:
        folder: the results folder.
        now: the time.
        queue: the jobs in SLURM's queue by number; None if SLURM was not asked or did not answer.
        submissions: the entries of the journal by job number, the oldest first.
        run: the newest run; None if there is none.
    """

    folder: Path
    now: datetime
    queue: Mapping[str, ListedJob] | None = None
    submissions: dict[str, Submission] = field(default_factory=dict)
    run: Run | None = None

    def is_alive(self, attempt: Attempt) -> bool:
        """Whether an attempt with the state "running" still runs, as far as this machine can tell."""
        if attempt.state != "running":
            return False
        if attempt.host == socket.gethostname():
            return process_lives(attempt.process, attempt.started)
        if self.now - attempt.updated < LOST_AFTER:
            return True
        listed = (self.queue or {}).get(attempt.slurm_job or "")
        return listed is not None and not listed.ended and listed.state != "PENDING"


def read_jobs(folder: Path, queue: Mapping[str, ListedJob] | None = None) -> Jobs:
    """Return the submissions and the newest run of a study; `read_record` reads the record of one job.

    Args:
        folder: the results folder.
        queue: the jobs in SLURM's queue by number; None if it was not asked or did not answer.
    """
    submissions = read_submissions(folder / JOURNAL)
    for job in submissions.keys() & (queue or {}).keys():
        submission, listed = submissions[job], (queue or {})[job]
        # The journal has the times only after a job has ended. For a pending job, SLURM lists an estimated start.
        if submission.seen is None and listed.state != "PENDING":
            submission.queued, submission.started = _time(listed.submitted_at), _time(listed.started_at)
    return Jobs(folder, datetime.now().astimezone(), queue, submissions, read_run(folder))


def read_record(path: Path) -> JobRecord | None:
    """Return the record of a job; None if there is none or it is damaged."""
    try:
        return JobRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def read_submissions(path: Path) -> dict[str, Submission]:
    """Return the entries of the journal by job number."""
    found: dict[str, Submission] = {}
    with suppress(OSError):
        for entry in Journal(path).read():
            # Entries of another format are skipped.
            with suppress(KeyError, TypeError, ValueError, AttributeError):
                _note(found, entry)
    return found


def read_run(folder: Path) -> Run | None:
    """Return the newest run on a results folder."""
    try:
        holder = _HOLDER.match((folder / RESULTS_HOLDER).read_text(encoding="utf-8"))
        if holder is None:
            return None
        process, host, since = int(holder[1]), holder[2], datetime.fromisoformat(holder[3]).astimezone()
    except (OSError, ValueError):
        return None
    alive = process_lives(process, since) if host == socket.gethostname() else None
    return Run(process, host, since, alive)


def process_lives(process: int, started: datetime) -> bool:
    """Whether the process that had this number at ``started`` still exists on this machine."""
    try:
        found = psutil.Process(process)
        if found.status() == psutil.STATUS_ZOMBIE:
            return False
        return bool(found.create_time() <= started.timestamp() + CLOCK_TOLERANCE_SECONDS)
    except (psutil.Error, ValueError, OverflowError):
        return False


def _note(found: dict[str, Submission], entry: Mapping[str, Any]) -> None:
    job, event, time = str(entry["job"]), entry["event"], _time(entry["time"])
    if time is None:
        return
    if event in ("submitted", "adopted") and job not in found:
        wildcards = {str(key): str(value) for key, value in entry["wildcards"].items()}
        found[job] = Submission(job, str(entry["rule"]), wildcards, int(entry["attempt"]), str(entry["log"]), time)
    if job not in found:
        return
    submission = found[job]
    if event == "adopted":
        submission.adopted = time
    elif event == "cancelled":
        submission.cancelled, submission.seen = True, time
    elif event == "ended":
        submission.state, submission.seen, submission.nodes = str(entry["state"]), time, str(entry.get("nodes") or "")
        submission.queued, submission.started, submission.ended = (
            _time(entry.get(key)) for key in ("submitted_at", "started_at", "ended_at")
        )


def _time(text: Any) -> datetime | None:
    """Return a time with its zone; times from SLURM are local."""
    return datetime.fromisoformat(text).astimezone() if text else None
