"""The wall time of a run, for made-up runs."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from slurm_guard.queue import ListedJob
from tests.support.synthetic_study import SyntheticStudy
from tests.unit.monitoring.test_status import write_record
from usertune.checks.freshness import Freshness
from usertune.cluster.job_names import JOURNAL
from usertune.monitoring.jobs import read_jobs
from usertune.monitoring.status import status_of
from usertune.monitoring.wall_time import RANKS, WallTime, _shares, wall_time_of
from usertune.monitoring.wall_time_view import clock, render_times

BEGAN = datetime.now().astimezone().replace(microsecond=0) - timedelta(hours=1)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def began(seconds: float = 0, process: int | None = None) -> None:
    """Make the newest run one that has ended, unless its process is given."""
    if process is None:
        gone = subprocess.Popen(["true"])
        gone.wait()
        process = gone.pid
    Path(".lock-holder").write_text(f"process {process} on {socket.gethostname()}, since {at(seconds).isoformat()}\n")


def record(path: str, start: float, end: float, **changes: Any) -> None:
    times = {"started": at(start).isoformat(), "updated": at(end).isoformat(), "ended": at(end).isoformat()}
    write_record(path, **{"state": "ended", **times, **changes})


def journal(*entries: dict[str, Any]) -> None:
    Path(JOURNAL).parent.mkdir(parents=True, exist_ok=True)
    with Path(JOURNAL).open("a") as file:
        file.writelines(json.dumps({**entry, "time": at(entry["time"]).isoformat()}) + "\n" for entry in entries)


def allocation(job: str, rule: str, submitted: float, started: float | None, ended: float, seen: float) -> None:
    """Write the journal's entries on a job; SLURM's times have no zone."""
    wildcards = {"experiment": "lora", **({"batch": "1-2"} if rule == "predict" else {})}

    def local(seconds: float | None) -> str | None:
        return None if seconds is None else at(seconds).replace(tzinfo=None).isoformat()

    journal(
        {
            "event": "submitted",
            "time": submitted + 1,
            "job": job,
            "rule": rule,
            "wildcards": wildcards,
            "attempt": 1,
            "log": "x",
        },
        {
            "event": "ended",
            "time": seen,
            "job": job,
            "state": "COMPLETED",
            "submitted_at": local(submitted),
            "started_at": local(started),
            "ended_at": local(ended),
            "nodes": "n0",
        },
    )


def times(study: SyntheticStudy, queue: dict[str, ListedJob] | None = None) -> WallTime | None:
    jobs = read_jobs(Path(), queue)
    return wall_time_of(status_of(Freshness(study.study, study.recipes), jobs), jobs)


def known(study: SyntheticStudy) -> WallTime:
    found = times(study)
    assert found is not None
    assert sum(found.shares.values()) == pytest.approx(found.seconds), "the table adds up"
    return found


def shown(spent: WallTime | None) -> str:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(render_times(spent))
    return capture.get()


def test_no_run_is_known(complete: SyntheticStudy) -> None:
    assert times(complete) is None
    assert "no run yet" in shown(None)


def test_a_job_on_slurm(complete: SyntheticStudy) -> None:
    began()
    allocation("7", "train", submitted=10, started=40, ended=205, seen=230)
    record("train/lora", 52, 200, slurm_job="7")
    found = known(complete)
    (job,) = found.jobs
    assert (job.queue, job.startup, job.work, job.teardown, job.detection_lag) == (30, 12, 148, 5, 25)
    assert job.seconds == 220
    assert found.allocations == {"train": 1}
    assert (found.local_jobs, found.model_loads) == ({}, 1)
    assert found.seconds == 230
    assert found.shares == {
        "queue": 30,
        "startup": 12,
        "work": 148,
        "teardown": 5,
        "detection_lag": 25,
        "cpu": 0,
        "other": 10,
    }


def test_jobs_on_this_machine_have_only_work(complete: SyntheticStudy) -> None:
    began()
    record("prepare/user_1", 0, 5, model_loads=0)
    record("train/lora", 10, 100)
    record("predict/vanilla/users_1-2", 20, 50)
    record("predict/lora/users_1-2", 101, 141, model_loads=0)
    record("score/lora/user_1", 142, 144, model_loads=0)
    found = known(complete)
    assert [(job.label, job.work, job.seconds) for job in found.jobs] == [
        ("training lora", 90, 90),
        ("predicting vanilla, users 1-2", 30, 30),
        ("predicting lora, users 1-2", 40, 40),
    ]
    assert found.shares == {
        "queue": 0,
        "startup": 0,
        "work": 130,
        "teardown": 0,
        "detection_lag": 0,
        "cpu": 7,
        "other": 7,
    }
    assert (found.allocations, found.local_jobs, found.model_loads) == ({}, {"train": 1, "predict": 2}, 2)
    assert [job.label for job in found.jobs if job.loaded_nothing] == ["predicting lora, users 1-2"]
    text = shown(found)
    assert "3 GPU jobs (1 training job, 2 prediction jobs); 2 loads of a base model" in text
    assert "Loaded no model of their own: predicting lora, users 1-2" in text


def test_earlier_attempts_and_earlier_runs(complete: SyntheticStudy) -> None:
    began(100)

    def attempt(number: int, start: float, end: float, state: str, **more: Any) -> dict[str, Any]:
        moments = {"started": at(start).isoformat(), "updated": at(end).isoformat(), "ended": at(end).isoformat()}
        head = {"attempt": number, "state": state, "error": None, "process": 1, "host": socket.gethostname()}
        return {**head, "slurm_job": None, "model_loads": 1, **moments, **more}

    earlier = [attempt(1, 0, 50, "failed"), attempt(2, 110, 130, "failed")]
    gone = subprocess.Popen(["true"])
    gone.wait()
    earlier.append(attempt(3, 131, 140, "running", process=gone.pid, ended=None))
    record("train/lora", 141, 200, attempt=4, earlier=earlier)
    found = known(complete)
    assert [(job.attempt, job.outcome, job.work) for job in found.jobs] == [
        (2, "failed", 20),
        (3, "killed", 9),
        (4, "ended", 59),
    ]
    assert found.model_loads == 3
    assert "training lora (attempt 3, killed)" in shown(found)


def test_an_allocation_whose_program_never_started(complete: SyntheticStudy) -> None:
    began()
    allocation("8", "predict", submitted=0, started=20, ended=25, seen=60)
    (job,) = known(complete).jobs
    assert (job.queue, job.startup, job.work, job.teardown, job.detection_lag, job.outcome) == (
        20,
        5,
        0,
        0,
        35,
        "no start",
    )
    assert not job.loaded_nothing


def test_times_that_slurm_does_not_know_and_clocks_that_differ(complete: SyntheticStudy) -> None:
    began()
    allocation("9", "predict", submitted=0, started=None, ended=55, seen=58)
    record("predict/lora/users_1-2", 30, 50, slurm_job="9")
    (job,) = known(complete).jobs
    assert (job.queue, job.startup, job.work, job.teardown, job.detection_lag) == (30, 0, 20, 5, 3)
    Path(JOURNAL).unlink()
    allocation("9", "predict", submitted=0, started=35, ended=45, seen=48)
    (job,) = known(complete).jobs
    assert (job.queue, job.startup, job.work, job.teardown, job.detection_lag) == (35, 0, 15, 0, 0), (
        "nothing is negative"
    )


def test_while_the_run_is_active(complete: SyntheticStudy) -> None:
    began(process=os.getpid())
    Path(".lock-holder").write_text(
        f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now().astimezone().isoformat()}\n"
    )
    write_record("train/lora")
    found = known(complete)
    assert found.active
    (job,) = found.jobs
    assert job.outcome == "running"
    assert "until now" in shown(found)


def test_slurm_reports_when_a_running_job_started(complete: SyntheticStudy) -> None:
    began(process=os.getpid())
    wildcards = {"experiment": "lora"}
    submitted = {"event": "submitted", "job": "7", "rule": "train", "wildcards": wildcards, "attempt": 1, "log": "x"}
    journal({**submitted, "time": 1})
    record("train/lora", 30, 50, slurm_job="7")
    started, queued = (at(seconds).replace(tzinfo=None).isoformat() for seconds in (12, 0))
    spent = times(complete, {"7": ListedJob("7", "RUNNING", submitted_at=queued, started_at=started)})
    assert spent
    (job,) = spent.jobs
    assert (job.queue, job.startup, job.work) == (12, 18, 20)
    expected = at(900).replace(tzinfo=None).isoformat()
    spent = times(complete, {"7": ListedJob("7", "PENDING", submitted_at=queued, started_at=expected)})
    assert spent
    assert (spent.jobs[0].queue, spent.jobs[0].startup) == (29, 0), "what SLURM expects has not happened"


def test_a_job_that_slurm_started_again_is_one_allocation(complete: SyntheticStudy) -> None:
    began()
    allocation("7", "train", submitted=0, started=60, ended=100, seen=110)
    times_of_first = {key: at(value).isoformat() for key, value in (("started", 10), ("updated", 50), ("ended", 50))}
    head = {"attempt": 1, "state": "stopped", "error": None, "process": 1, "host": "n0", "slurm_job": "7"}
    record("train/lora", 62, 99, slurm_job="7", attempt=2, earlier=[{**head, **times_of_first, "model_loads": 1}])
    found = known(complete)
    assert found.allocations == {"train": 1}
    assert [(job.work, job.startup, job.teardown, job.detection_lag) for job in found.jobs] == [
        (40, 0, 0, 0),
        (37, 2, 1, 10),
    ]
    assert found.shares["work"] == 77


def test_json(complete: SyntheticStudy) -> None:
    began()
    record("train/lora", 10, 100)
    value = known(complete).as_dict()
    assert (value["local_jobs"], value["model_loads"], value["seconds"]) == ({"train": 1}, 1, 100)


def test_shares_against_counting_every_second() -> None:
    chance = random.Random(3)
    for _ in range(50):
        spans: dict[str, list[tuple[int, int]]] = {}
        for name in RANKS:
            starts = [chance.randrange(-10, 110) for _ in range(chance.randrange(4))]
            spans[name] = [(start, start + chance.randrange(30)) for start in starts]
        expected = dict.fromkeys((*RANKS, "other"), 0.0)
        for second in range(100):
            on = [name for name in RANKS if any(start <= second < end for start, end in spans[name])]
            expected[on[0] if on else "other"] += 1
        moments = {name: [(at(start), at(end)) for start, end in own] for name, own in spans.items()}
        assert _shares(moments, at(0), at(100)) == expected


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0.4, 61, 3600 * 30 + 5)] == ["0:00:00", "0:01:01", "30:00:05"]
