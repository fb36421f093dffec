"""What is shown of made-up running jobs."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.unit.monitoring.test_status import write_record
from usertune.monitoring.run_jobs import Job, Left, RunJobs
from usertune.monitoring.run_view import RunView

NOW = datetime.now().astimezone()
OF_FOLDS = "train_folds users 1-5"
GONE = {"host": "another", "updated": (NOW - timedelta(hours=1)).isoformat()}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


def record(path: str, unit: str, done: int, total: int, left: float | None, **changes: Any) -> None:
    progress = {"unit": unit, "done": done, "total": total, "rate": 1.0, "seconds_left": left, "at": ago(10)}
    usual = {"started": ago(0), "updated": ago(0), "process": os.getpid(), "host": socket.gethostname()}
    write_record(path, progress=progress, **{**usual, **changes})


def start(jobs: RunJobs, number: int, rule: str, label: str, log: str, seconds_ago: float, **of: Any) -> None:
    at = NOW.timestamp() - seconds_ago
    jobs.start(Job(number, rule, of.pop("wildcards", {}), label, [Path("logs", log)], at, **of))


def shown(jobs: RunJobs, width: int = 80, **how: Any) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(RunView(jobs, **how).render(NOW.timestamp()))
    return [line.rstrip() for line in capture.get().splitlines()]


def run() -> RunJobs:
    """Return a run with two finished predictions of 30 s, a training, one on folds, and a job without a record."""
    users = [Path(f"logs/train_folds/personal/user_{user}.progress.json") for user in range(1, 5)]
    of_folds = (OF_FOLDS, frozenset({("experiment", "personal")}))
    jobs = RunJobs(records_of={of_folds: users})
    jobs.plan({"predict": 6, "train": 2, OF_FOLDS: 1, "report": 1, "all": 1})
    for number in (1, 2):
        start(jobs, number, "predict", "Predicting users 1-5 with vanilla", "predict.log", 200)
        jobs.finish(number, NOW.timestamp() - 170)
    record("train/lora", "steps", 120, 266, 79.0)
    start(jobs, 3, "train", "Training lora", "train/lora.log", 170)
    for user, ended in ((1, ago(60)), (2, ago(20)), (3, None)):
        state = "ended" if ended else "running"
        record(f"train_folds/personal/user_{user}", "steps", 5, 10, 5.0, state=state, ended=ended)
    label, wildcards = "Training personal on the folds of users 1-4", {"experiment": "personal"}
    start(jobs, 4, OF_FOLDS, label, "folds.log", 170, wildcards=wildcards)
    start(jobs, 5, "report", "Writing the report", "report.log", 12)
    return jobs


def test_what_runs_and_how_far_it_is() -> None:
    # Two trainings are not known: (69 s + 4 predictions of 30 s) / (412 s of jobs in 200 s).
    assert shown(run()) == [
        "━━━╸                 2 of 11 jobs, 3 min 20 s, at least 1 min 32 s left",
        "predictions 2/6, weights 0/2, weights of folds 0/1, report 0/1",
        "  Training lora                         ━━━━╸      120/266 steps, 1 min 9 s left",
        "  Training personal on the folds of us… ━━━━━━     2/4 users, 2 min 50 s",
        "  Writing the report                               12 s",
    ]
    assert len(shown(run(), with_jobs=False)) == 2
    assert max(map(len, shown(run(), 50))) <= 50


def waiting_jobs() -> Iterator[RunJobs]:
    for record_of_earlier_run in (False, True):
        if record_of_earlier_run:
            record("predict", "samples", 5, 10, 5.0, **GONE)
        jobs = RunJobs()
        jobs.plan({"predict": 2, "train": 1})
        start(jobs, 1, "predict", "Predicting 1", "predict.log", 60, remote=True)
        start(jobs, 2, "predict", "Predicting 2", "predict2.log", 60, remote=True)
        start(jobs, 3, "train", "Training lora", "train.log", 60, remote=True)
        yield jobs


def test_jobs_in_the_queue_of_a_cluster_wait() -> None:
    for jobs in waiting_jobs():
        assert shown(jobs)[-1] == "  waiting in the queue: 2 prediction jobs, 1 training job"
    record("predict", "samples", 5, 10, 40.0, host="node7", slurm_job="12")
    assert "5/10 samples, 30 s left" in shown(jobs)[-2]
    assert shown(jobs)[-1] == "  waiting in the queue: 1 prediction job, 1 training job"


def test_many_jobs() -> None:
    jobs = RunJobs()
    jobs.plan({"figure": 30})
    for number in range(30):
        start(jobs, number, "figure", f"Drawing {number}", f"{number}.log", 1)
    assert len(shown(jobs)) == 13
    assert shown(jobs)[-1] == "  and 20 more"


def test_a_further_attempt() -> None:
    jobs = RunJobs()
    jobs.plan({"train": 1})
    start(jobs, 1, "train", "Training lora", "train.log", 9)
    jobs.fail(1)
    assert list(jobs.failed) == [1]
    start(jobs, 1, "train", "Training lora", "train.log", 4)
    assert shown(jobs)[-1].endswith("attempt 2, 4 s")
    jobs.finish(1, NOW.timestamp())
    assert not jobs.failed
    assert jobs.done.total() == 1


def test_how_long_yet() -> None:
    """Two jobs at once, as so far; waiting jobs take as long as finished ones of their step."""
    jobs = RunJobs()
    now = NOW.timestamp()
    assert jobs.left({}, now) is None
    jobs.plan({"predict": 6, "compare": 1})
    for number in (1, 2):
        start(jobs, number, "predict", "", f"{number}.log", 100)
        jobs.finish(number, now - 60)
    for number in (3, 4):
        start(jobs, number, "predict", "", f"{number}.log", 60)
    progress = {number: job.progress(NOW) for number, job in jobs.running.items()}
    # 200 s of work in 100 s; the running ones are overdue; two more take 40 s each.
    assert jobs.left(progress, now) == Left(40.0, at_least=False)
    jobs.plan({"predict": 6, "compare": 1, "train": 1})
    assert jobs.left(progress, now) == Left(40.0, at_least=True)
