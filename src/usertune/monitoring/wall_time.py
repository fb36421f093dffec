"""The wall time of a run: its allocations, its base-model loads, and what each job waited for.

The time of a job is divided at six moments: submitted, allocation started, program started, program ended, allocation
ended, end detected by the run. Jobs on this machine have no allocation, so they only have work. Jobs run at the same
time, so their sum can exceed the wall time. The wall time itself is divided separately: each moment counts for the most
useful thing that happened then.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from usertune.monitoring.jobs import Attempt, Jobs, Submission, read_record
from usertune.monitoring.status import Row, Status
from usertune.pipeline.steps import GPU_STEPS

Span = tuple[datetime, datetime]
PARTS = ("queue", "startup", "work", "teardown", "detection_lag")
# What a moment of the run counts for if several things happened at once, the most useful first.
RANKS = ("work", "startup", "teardown", "detection_lag", "queue", "cpu")


@dataclass(frozen=True)
class JobTime:
    """Where the time of one attempt at a GPU job went, in seconds.

    Attributes:
        label, step: what it did.
        slurm_job: its allocation; None on this machine.
        attempt: number of the attempt, from 1.
        outcome: "running", "ended", "stopped", "failed", "killed", or "no start".
        queue: from submission until the allocation started.
        startup: from then until the program started.
        work: from then until the program ended.
        teardown: from then until the allocation ended.
        detection_lag: from then until the run noticed that.
        model_loads: how often it loaded a base model.
    """

    label: str
    step: str
    slurm_job: str | None
    attempt: int
    outcome: str
    queue: float
    startup: float
    work: float
    teardown: float
    detection_lag: float
    model_loads: int

    @property
    def seconds(self) -> float:
        """The total time, from submission until the run noticed the end."""
        return self.queue + self.startup + self.work + self.teardown + self.detection_lag

    @property
    def loaded_nothing(self) -> bool:
        """Whether it succeeded without loading a base model."""
        return self.outcome == "ended" and not self.model_loads


@dataclass(frozen=True)
class WallTime:
    """Where the wall time of a run went, in seconds.

    Attributes:
        study: name of the study.
        since, until: the start of the run, after its jobs were planned, and its end (now, if it is active).
        active: whether the run is active.
        jobs: every attempt at a GPU job, in the order in which the programs started.
        shares: the seconds of the run by what happened: "work", "startup", "teardown", "detection_lag" and "queue" of
            some GPU job, else "cpu" steps, else "other": planning, and what the run itself does between jobs. They add
            up to the length of the run.
    """

    study: str
    since: datetime
    until: datetime
    active: bool
    jobs: tuple[JobTime, ...]
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Length of the run."""
        return (self.until - self.since).total_seconds()

    @property
    def allocations(self) -> Counter[str]:
        """Number of SLURM allocations, by step."""
        return Counter(step for step, _ in {(job.step, job.slurm_job) for job in self.jobs if job.slurm_job})

    @property
    def local_jobs(self) -> Counter[str]:
        """Number of GPU jobs without an allocation, by step."""
        return Counter(job.step for job in self.jobs if not job.slurm_job)

    @property
    def model_loads(self) -> int:
        """Number of base-model loads."""
        return sum(job.model_loads for job in self.jobs)

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        derived = ("seconds", "allocations", "local_jobs", "model_loads")
        return {**dataclasses.asdict(self), **{name: getattr(self, name) for name in derived}}


def wall_time_of(status: Status, jobs: Jobs) -> WallTime | None:
    """Return where the time of the newest run went; None if no run is known.

    Args:
        status: the status of the study, which names its jobs and their records.
        jobs: its known jobs.
    """
    since = jobs.run.since if jobs.run else None
    found = sorted(_gpu_jobs(status, jobs, since), key=lambda item: item[1]["work"][0])
    cpu = [(attempt.started, _last(jobs, attempt)) for row, attempt in _attempts(status, since) if not _on_gpu(row)]
    moments = [moment for _, spans in found for span in spans.values() for moment in span]
    moments += [moment for span in cpu for moment in span]
    since = since or min(moments, default=None)
    if since is None:
        return None
    active = bool(jobs.run and jobs.run.alive)
    until = jobs.now if active else max(moments, default=since)
    spans_of: dict[str, list[Span]] = {part: [spans[part] for _, spans in found] for part in PARTS}
    shares = _shares({**spans_of, "cpu": cpu}, since, until)
    return WallTime(status.study, since, until, active, tuple(job for job, _ in found), shares)


def _on_gpu(row: Row) -> bool:
    return row.step in GPU_STEPS


def _attempts(status: Status, since: datetime | None) -> Iterator[tuple[Row, Attempt]]:
    """Yield the recorded attempts of the run at every result of the study."""
    for row in status.rows:
        record = read_record(Path(status.results) / row.record) if row.record else None
        for attempt in record.attempts if record else ():
            # The start of the run is recorded in whole seconds.
            if since is None or attempt.last >= since - timedelta(seconds=1):
                yield row, attempt


def _gpu_jobs(status: Status, jobs: Jobs, since: datetime | None) -> Iterator[tuple[JobTime, dict[str, Span]]]:
    """Yield every attempt at a GPU job of the run, with the spans of its parts."""
    attempts = [(row, attempt) for row, attempt in _attempts(status, since) if _on_gpu(row)]
    # SLURM can start a job again under the same number; it then reports the times of the newest start.
    recorded = {attempt.slurm_job: attempt for _, attempt in attempts if attempt.slurm_job}
    for row, attempt in attempts:
        newest = attempt.slurm_job if recorded.get(attempt.slurm_job or "") is attempt else None
        yield _job_time(row.label, row.step, attempt, jobs.submissions.get(newest or ""), jobs)
    for submission in jobs.submissions.values():
        last = submission.seen or submission.adopted or submission.noted
        if submission.job in recorded or submission.step not in GPU_STEPS or (since and last < since):
            continue
        if submission.seen is None and not (jobs.run and jobs.run.alive):
            continue
        label = f"{submission.rule} {', '.join(submission.wildcards.values())}".strip()
        yield _job_time(label, submission.step, None, submission, jobs)


def _job_time(
    label: str, step: str, attempt: Attempt | None, submission: Submission | None, jobs: Jobs
) -> tuple[JobTime, dict[str, Span]]:
    moments: list[datetime | None] = [None] * (len(PARTS) + 1)
    if attempt:
        moments[2:4] = attempt.started, _last(jobs, attempt)
    if submission:
        moments[:2] = submission.queued or submission.noted, submission.started
        if submission.seen:
            moments[4:] = submission.ended, submission.seen
            # A program that never started or was killed ended with its allocation.
            moments[3] = attempt.ended if attempt and attempt.ended else submission.ended
        elif attempt is None:
            moments[-1] = jobs.now
    spans = dict(zip(PARTS, _in_order(moments), strict=True))
    outcome: str = attempt.state if attempt else "no start"
    if attempt and attempt.state == "running" and not jobs.is_alive(attempt):
        outcome = "killed"
    number = attempt.attempt if attempt else submission.attempt if submission else 1
    lengths = {part: (end - start).total_seconds() for part, (start, end) in spans.items()}
    loads = attempt.model_loads if attempt else 0
    allocation = submission.job if submission else attempt.slurm_job if attempt else None
    return JobTime(label, step, allocation, number, outcome, **lengths, model_loads=loads), spans


def _in_order(moments: Sequence[datetime | None]) -> Iterator[Span]:
    """Yield the spans between moments. An unknown moment is replaced by the next one; no span is negative.

    The moments come from the clocks of several machines, and those of SLURM are whole seconds.
    """
    known = list(moments)
    for index in range(len(known) - 2, -1, -1):
        known[index] = known[index] or known[index + 1]
    last = next(moment for moment in known if moment)
    for index, moment in enumerate(known):
        start, last = last, max(last, moment) if moment else last
        if index:
            yield start, last


def _last(jobs: Jobs, attempt: Attempt) -> datetime:
    return jobs.now if jobs.is_alive(attempt) else attempt.last


def _shares(spans_of: dict[str, list[Span]], since: datetime, until: datetime) -> dict[str, float]:
    """Divide the time of a run by what happened: every moment counts once, for the first of `RANKS`."""
    edges = {since, until}
    for spans in spans_of.values():
        edges |= {min(max(moment, since), until) for span in spans for moment in span}
    order = sorted(edges)
    shares = dict.fromkeys((*RANKS, "other"), 0.0)
    merged = {name: _merged(spans) for name, spans in spans_of.items()}
    at = dict.fromkeys(merged, 0)
    for start, end in pairwise(order):
        for name, spans in merged.items():
            while at[name] < len(spans) and spans[at[name]][1] <= start:
                at[name] += 1
        busy = (name for name in RANKS if at[name] < len(merged[name]) and merged[name][at[name]][0] <= start)
        shares[next(busy, "other")] += (end - start).total_seconds()
    return shares


def _merged(spans: Sequence[Span]) -> list[Span]:
    """Return the same time as ordered spans that do not overlap."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged
