"""The jobs of an active run: planned, running, waiting, finished and failed, and how long the run will take.

The run itself reports starts and ends. The progress of a job comes from its record, its warnings from its log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from usertune.monitoring.jobs import JobRecord, Jobs, read_record
from usertune.pipeline.layout import experiment_of_rule, step_of_rule
from usertune.pipeline.steps import GPU_STEPS, SCORE
from usertune.runtime.job_log import Entry, LogReader, read_log
from usertune.runtime.job_record import record_file


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        started: whether its program runs; on a cluster a job waits first.
        share: the finished part, from 0 to 1; None if unknown.
        words: the same in words, such as ``120/266 steps``.
        seconds_left: None if unknown.
    """

    started: bool
    share: float | None = None
    words: str = ""
    seconds_left: float | None = None


@dataclass
class Job:
    """A job that the run has started.

    Attributes:
        number: its number in the run.
        rule, wildcards: what makes it.
        label: what it does, for people.
        logs: its logs.
        started: time of its start, in seconds since the epoch.
        remote: whether it is submitted to a cluster.
        has_command: whether it starts a program.
        records: its records: one, or one for each user.
        attempt: number of the attempt in this run.
    """

    number: int
    rule: str
    wildcards: Mapping[str, str]
    label: str
    logs: Sequence[Path]
    started: float
    remote: bool = False
    has_command: bool = True
    records: Sequence[Path] = ()
    attempt: int = 1
    readers: list[LogReader] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.readers = [LogReader(path, self.started) for path in self.logs]
        self.records = [path for log in self.logs[:1] if (path := record_file(log))]

    @property
    def step(self) -> str:
        """Name of its step, or of its rule."""
        return step_of_rule(self.rule)

    @property
    def scored(self) -> str | None:
        """The experiment of which it scores answers; None for other jobs."""
        return experiment_of_rule(self.rule) if self.step == SCORE.name else None

    def new_messages(self) -> list[Entry]:
        """Return what was written to its logs since the last call."""
        return [entry for reader in self.readers for entry in reader.new()]

    def progress(self, now: datetime) -> Progress:
        """Return how far it is."""
        jobs = Jobs(Path(), now)
        records = [record for path in self.records if (record := read_record(path))]
        running = next((record for record in records if jobs.is_alive(record)), None)
        if len(self.records) > 1:
            return self._of_users(records, running)
        if running is None or running.progress is None:
            return Progress(running is not None)
        of = running.progress
        left = None if of.seconds_left is None else max(0.0, of.seconds_left - (now - of.at).total_seconds())
        return Progress(True, _share(running), f"{of.done:,}/{of.total:,} {of.unit}", left)

    def _of_users(self, records: Iterable[JobRecord], running: JobRecord | None) -> Progress:
        done = sum(record.state == "ended" and record.last.timestamp() >= self.started for record in records)
        total = len(self.records)
        share = (done + (_share(running) or 0.0)) / total
        return Progress(running is not None or done > 0, share, f"{done}/{total} users")


@dataclass(frozen=True)
class Left:
    """The estimated time that a run will take. ``at_least``: some of its jobs have an unknown duration."""

    seconds: float
    at_least: bool


@dataclass
class RunJobs:
    """The jobs of a run.

    Attributes:
        planned: number of jobs, by step.
        total: number of all jobs.
        running: the running jobs by number, including those that wait in the queue of a cluster.
        done: number of finished jobs, by step.
        failed: jobs that failed and were not tried again since, by number.
        began: start of the first job, in seconds since the epoch; None before.
        records_of: (rule, wildcards) of a job -> paths of its records, for jobs that have several.
    """

    planned: Counter[str] = field(default_factory=Counter)
    total: int = 0
    running: dict[int, Job] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    failed: dict[int, Job] = field(default_factory=dict)
    began: float | None = None
    records_of: Mapping[tuple[str, frozenset[tuple[str, str]]], Sequence[Path]] = field(default_factory=dict)
    _labels: dict[int, str] = field(default_factory=dict)
    _attempts: Counter[int] = field(default_factory=Counter)
    _seconds: dict[str, list[float]] = field(default_factory=dict)

    def plan(self, jobs_of_rules: Mapping[str, int]) -> None:
        """Note the number of planned jobs of each rule."""
        self.planned = Counter()
        for rule, jobs in jobs_of_rules.items():
            self.planned[step_of_rule(rule)] += jobs
        self.total = self.planned.total()

    def start(self, job: Job) -> None:
        """Note that a job was started, or submitted."""
        self.began = self.began or job.started
        job.records = self.records_of.get((job.rule, frozenset(job.wildcards.items())), job.records)
        self._attempts[job.number] += 1
        job.attempt = self._attempts[job.number]
        self._labels[job.number] = job.label
        self.running[job.number] = job
        self.failed.pop(job.number, None)

    def finish(self, number: int, at: float) -> Job | None:
        """Note that a job is done; return it, or None if its start was not noted."""
        job = self.running.pop(number, None)
        if job is not None:
            self.done[job.step] += 1
            self._seconds.setdefault(job.step, []).append(at - job.started)
        return job

    def fail(self, number: int) -> Job | None:
        """Note that a job failed; return it, or None if its start was not noted."""
        job = self.running.pop(number, None)
        if job is not None:
            self.failed[number] = job
        return job

    def label(self, number: int) -> str | None:
        """Return what a job does; None if its start was not noted."""
        return self._labels.get(number)

    def left(self, progress: Mapping[int, Progress], now: float) -> Left | None:
        """Return how long the run will take; None if nothing is known.

        A job that has not started takes as long as the finished ones of its step; the jobs share the time as they did
        so far.

        Args:
            progress: how far each running job is, by number.
            now: seconds since the epoch.
        """
        if self.began is None:
            return None
        running = [self._left_of(job, progress[number], now) for number, job in self.running.items()]
        known = [seconds for seconds in running if seconds is not None]
        unknown = any(
            seconds is None and job.step in GPU_STEPS
            for job, seconds in zip(self.running.values(), running, strict=True)
        )
        started = Counter(job.step for job in self.running.values())
        waiting = 0.0
        for step, jobs in (self.planned - self.done - started).items():
            seconds = self._mean_seconds(step)
            # Unknown CPU steps take seconds.
            unknown |= seconds is None and step in GPU_STEPS
            waiting += jobs * (seconds or 0.0)
        if not known and not waiting:
            return None
        spent = sum(map(sum, self._seconds.values())) + sum(now - job.started for job in self.running.values())
        at_once = max(1.0, spent / max(now - self.began, 1e-9))
        return Left(max((sum(known) + waiting) / at_once, *known, 0.0), unknown)

    def _left_of(self, job: Job, progress: Progress, now: float) -> float | None:
        if progress.seconds_left is not None:
            return progress.seconds_left
        seconds = self._mean_seconds(job.step)
        if seconds is None or (job.remote and not progress.started):
            return seconds
        return max(0.0, seconds - (now - job.started))

    def _mean_seconds(self, step: str) -> float | None:
        seconds = self._seconds.get(step)
        return sum(seconds) / len(seconds) if seconds else None


def last_messages(logs: Iterable[Path], most: int) -> Iterator[tuple[Path, list[str], int]]:
    """Yield the logs that are not empty: path, the last lines without times, and the number of lines before them."""
    for path in logs:
        lines = [line for entry in read_log(path) for line in entry.text.splitlines()]
        if lines:
            yield path, lines[-most:], max(0, len(lines) - most)


def _share(record: JobRecord | None) -> float | None:
    if record is None or record.progress is None or not record.progress.total:
        return None
    return record.progress.done / record.progress.total
