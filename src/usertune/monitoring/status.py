"""The progress of a study: for every result whether it is done, running, queued, waiting, failed or stopped.

The results themselves show what is done. For the others, the newest entry in the records of the jobs and in the
journal of SLURM jobs counts. Nothing is written or locked, so the status can be read at any time, from any machine that
sees the results folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from usertune.checks.freshness import Freshness
from usertune.checks.upstream import is_made_from
from usertune.monitoring.jobs import Attempt, JobRecord, Jobs, Run, Submission, read_record
from usertune.pipeline import steps
from usertune.pipeline.layout import Result, job_of
from usertune.runtime.job_record import SUFFIX

State = Literal["done", "running", "queued", "waiting", "failed", "stopped"]


@dataclass(frozen=True)
class Row:
    """The progress of one result.

    Attributes:
        step, experiment, users: its wildcards; ``experiment`` is None and ``users`` empty if it has none.
        label: its name for people.
        state: its state.
        error: the error in one line; None unless it failed.
        unit, done, total: its progress, in ``unit``; None if it does not run or has not recorded any.
        samples_per_second: its speed; None if unknown.
        seconds_left: time until it is done; None if unknown.
        attempt: number of the attempt since it was last done; None if unknown.
        host, gpus, slurm_job: where it runs or ran last.
        started, ended: start and end of its newest attempt.
        log: its log (SLURM's log if the program did not start); None if there is none yet.
        record: the record of its job, relative to the results folder.
    """

    step: str
    experiment: str | None
    users: tuple[str, ...]
    label: str
    state: State
    error: str | None = None
    unit: str | None = None
    done: int | None = None
    total: int | None = None
    samples_per_second: float | None = None
    seconds_left: float | None = None
    attempt: int | None = None
    host: str | None = None
    gpus: tuple[str, ...] = ()
    slurm_job: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    log: str | None = None
    record: str | None = None


@dataclass(frozen=True)
class Status:
    """The progress of a study.

    Attributes:
        study: its name.
        results: its results folder.
        now: time of this status.
        run: the newest run on the results; None if there is none.
        rows: every result, each after its inputs.
        seconds_left: estimated time that the GPU jobs will take, at the current speed and with as many at once as now,
            without time in a queue; None if unknown.
    """

    study: str
    results: str
    now: datetime
    run: Run | None
    rows: tuple[Row, ...]
    seconds_left: float | None

    @property
    def complete(self) -> bool:
        """Whether every result is done."""
        return all(row.state == "done" for row in self.rows)

    @property
    def active(self) -> bool:
        """Whether a run is active, or a job of an earlier run is running or queued."""
        return bool(self.run and self.run.alive) or any(row.state in ("running", "queued") for row in self.rows)

    @property
    def failed(self) -> list[Row]:
        """Return the results that failed and were not tried again since."""
        return [row for row in self.rows if row.state == "failed"]

    def counts(self, *of: str) -> Counter[State]:
        """Return the number of results in each state, of the named steps (of all if none is named)."""
        return Counter(row.state for row in self.rows if not of or row.step in of)


def status_of(freshness: Freshness, jobs: Jobs) -> Status:
    """Return the progress of a study.

    Changes of raw data and base model are not checked here; `usertune.checks.explain` does that.

    Args:
        freshness: the freshness of the study's results.
        jobs: its known jobs.
    """
    newest = {_key(item.rule, item.wildcards): item for item in jobs.submissions.values()}
    done: set[str] = set()
    rows = []
    for path, result in freshness.results.items():
        log = freshness.folder / result.log
        record_path = log.with_suffix(SUFFIX)
        record = read_record(record_path)
        if _is_done(freshness, result, done):
            done.add(path)
        submission = newest.get(_key(*job_of(freshness.study, result)))
        state, error = _state(jobs, record, submission, path in done)
        facts = _facts(freshness, result, state, record, submission, jobs.now)
        if submission and not log.exists():
            log = Path(submission.log)
        facts["log"] = str(log) if log.exists() else None
        facts["record"] = record_path.relative_to(freshness.folder).as_posix() if record else None
        rows.append(Row(result.step, result.experiment, result.users, result.doing, state, error, **facts))
    left = _seconds_left(freshness, rows)
    return Status(freshness.study.name, str(freshness.folder), jobs.now, jobs.run, tuple(rows), left)


def _key(rule: str, wildcards: Mapping[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
    return rule, frozenset(wildcards.items())


def _is_done(freshness: Freshness, result: Result, done: set[str]) -> bool:
    """Whether a result is complete and made with today's recipe from the current inputs."""
    if not done.issuperset(result.upstream):
        return False
    if next(freshness.reasons(result.manifest, look_at_sources=False), None) is not None:
        return False
    manifest = freshness.inspect(result.manifest)[0] or {}
    return all(is_made_from(manifest, freshness.inspect(above)[0] or {}) for above in result.upstream)


def _state(jobs: Jobs, record: JobRecord | None, submission: Submission | None, done: bool) -> tuple[State, str | None]:
    """Return the state of a result, and the error if it failed."""
    if record and jobs.is_alive(record):
        return "running", None
    if done:
        return "done", None
    if submission and submission.seen is None and (open_state := _not_seen_to_end(jobs, record, submission)):
        return open_state
    last = max(moment for moment in (_last(record), _last(submission)) if moment) if record or submission else None
    if last is None or (jobs.run and jobs.run.alive and last < jobs.run.since):
        # The active run will repeat what failed in an earlier run.
        return "waiting", None
    return _outcome(record, submission)


def _not_seen_to_end(jobs: Jobs, record: JobRecord | None, submission: Submission) -> tuple[State, str | None] | None:
    """Return the state of a submitted job if no run has detected its end; None if its record has the state."""
    listed = jobs.queue.get(submission.job) if jobs.queue is not None else None
    if listed is not None and not listed.ended:
        return ("queued" if listed.state == "PENDING" else "running"), None
    if record and record.slurm_job == submission.job:
        return None
    if jobs.queue is None:
        return "queued", None
    if listed is not None and listed.state == "COMPLETED":
        return "waiting", None
    return "failed", f"SLURM job {submission.job} no longer exists ({listed.state if listed else 'not listed'})"


def _outcome(record: JobRecord | None, submission: Submission | None) -> tuple[State, str | None]:
    """Return the outcome of the newest attempt at a result that is not done."""
    newest_is_slurm = submission and submission.seen and (record is None or submission.seen >= record.last)
    if submission and newest_is_slurm:
        if submission.cancelled:
            return "stopped", None
        if submission.state != "COMPLETED":
            own = record.error if record and record.slurm_job == submission.job else None
            return "failed", own or f"SLURM job {submission.job}: {submission.state}"
    if record is None or record.state == "ended":
        return "waiting", None
    if record.state == "running":
        return "failed", f"process {record.process} on {record.host} ended without a message; it was killed"
    return record.state, record.error


def _last(of: Attempt | Submission | None) -> datetime | None:
    if isinstance(of, Attempt):
        return of.last
    return (of.seen or of.adopted or of.noted) if of else None


def _facts(
    freshness: Freshness,
    result: Result,
    state: State,
    record: JobRecord | None,
    submission: Submission | None,
    now: datetime,
) -> dict[str, Any]:
    """Return the other facts of a row: host, times, progress and speed."""
    facts: dict[str, Any] = {}
    if submission and (record is None or (submission.adopted or submission.noted) > record.last):
        facts = {"attempt": submission.attempt, "slurm_job": submission.job, "host": submission.nodes or None}
    elif record:
        facts = {
            "attempt": record.attempt,
            "slurm_job": record.slurm_job,
            "host": record.node or record.host,
            "gpus": record.gpus,
            "started": record.started,
            "ended": record.ended,
        }
    if state == "done":
        facts["samples_per_second"] = _speed_of_done(freshness.inspect(result.manifest)[0] or {})
    if state != "running" or record is None or (progress := record.progress) is None:
        return facts
    facts |= {"unit": progress.unit, "done": progress.done, "total": progress.total}
    if progress.rate:
        training = freshness.study.experiments[result.experiment].training if result.experiment else None
        by_step = training.batch_size if training and progress.unit == "steps" else 1
        facts["samples_per_second"] = progress.rate * by_step
    if progress.seconds_left is not None:
        facts["seconds_left"] = max(0.0, progress.seconds_left - (now - progress.at).total_seconds())
    return facts


def _speed_of_done(manifest: Mapping[str, Any]) -> float | None:
    """Return the samples per second of a training or a prediction; None if it found everything done."""
    if manifest["step"] == steps.TRAIN_FOLDS.name:
        folds = manifest["folds"].values()
        seconds = sum(fold["wall_seconds"] for fold in folds)
        samples = sum(fold["samples_per_second"] * fold["wall_seconds"] for fold in folds)
        return float(samples / seconds) if seconds else None
    if manifest["step"] == steps.TRAIN.name:
        speed: float | None = manifest.get("samples_per_second")
        return speed
    if manifest["step"] == steps.PREDICT.name and manifest.get("generated") and manifest.get("generation_seconds"):
        return float(manifest["generated"] / manifest["generation_seconds"])
    return None


def _seconds_left(freshness: Freshness, rows: Sequence[Row]) -> float | None:
    """Estimate how long the GPU jobs will take; None unless the speed of all remaining work is known."""
    without_model = {name for name, experiment in freshness.study.experiments.items() if not experiment.generated}
    jobs = [
        row
        for row in rows
        if row.step in steps.GPU_STEPS and row.state != "done" and row.experiment not in without_model
    ]
    running = [row.seconds_left for row in jobs if row.state == "running"]
    seconds = []
    for row in jobs:
        left = row.seconds_left if row.state == "running" else _seconds_to_do(freshness, rows, row)
        if left is None:
            return None
        seconds.append(left)
    if not running:
        return None
    return max(sum(seconds) / len(running), *(left for left in running if left is not None))


def _seconds_to_do(freshness: Freshness, rows: Sequence[Row], row: Row) -> float | None:
    """Return how long a prediction that has not started will take at the speed of others of its experiment."""
    speeds = [
        other.samples_per_second
        for other in rows
        if (other.step, other.experiment) == (steps.PREDICT.name, row.experiment) and other.samples_per_second
    ]
    data = [freshness.inspect(steps.PREPARE.manifest.format(user=user))[0] for user in row.users]
    if row.step != steps.PREDICT.name or not speeds or not all(data):
        return None
    return float(sum(manifest["samples"] for manifest in data if manifest) * len(speeds) / sum(speeds))
