"""The process that submits is interrupted, terminated or killed: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.slurm.conftest import FULL, VANILLA, Undisturbed
from tests.slurm.test_faults import job_of, training_job
from tests.support.slurm_cluster import Cluster
from tests.support.workplace import Workplace, kill_group, wait_until
from usertune.cluster.job_names import JOURNAL

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]
WAITING_OR_RUNNING = "pending,running,completing,suspended,configuring"


def events(workplace: Workplace) -> list[tuple[str, str]]:
    """Return the entries of the journal: event and job."""
    lines = (workplace.results / JOURNAL).read_text().splitlines()
    return [(entry["event"], entry["job"]) for entry in map(json.loads, lines)]


@pytest.fixture
def run(long_workplace: Workplace) -> Iterator[subprocess.Popen[str]]:
    """A run that trains."""
    run = long_workplace.start(FULL)
    yield run
    kill_group(run)


@pytest.fixture
def left(cluster: Cluster, long_workplace: Workplace, run: subprocess.Popen[str]) -> str:
    """The number of a job that trains after its run was killed."""
    number: str = training_job(cluster, long_workplace, run)["id"]
    run.kill()
    run.wait()
    return number


def test_interrupted(
    cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed, run: subprocess.Popen[str]
) -> None:
    training_job(cluster, long_workplace, run)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(60) != 0
    wait_until_all_ended(cluster)
    assert not long_workplace.programs("train")
    assert not list((long_workplace.results / "checkpoints/full").glob("*.json")), "no partial result"
    # Its jobs were cancelled, so the next run submits another.
    long_workplace.run(FULL)
    assert undisturbed.same_training(long_workplace)["resumed_from_step"] > 0


def test_terminated(
    cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed, run: subprocess.Popen[str]
) -> None:
    training_job(cluster, long_workplace, run)
    run.send_signal(signal.SIGTERM)
    run.wait(200)
    assert "Will exit after finishing currently running jobs" in long_workplace.output
    assert undisturbed.same_training(long_workplace)["resumed_from_step"] == 0
    assert "Nothing to be done" in long_workplace.run(FULL)


def test_killed_and_started_again(long_workplace: Workplace, undisturbed: Undisturbed, left: str) -> None:
    output = long_workplace.run(FULL)
    assert f"SLURM jobs of an earlier run: {left}." in output
    assert f"re-attaches to SLURM job {left} of an earlier run" in output
    assert events(long_workplace) == [("submitted", left), ("adopted", left), ("ended", left)], "and no other"
    assert undisturbed.same_training(long_workplace)["resumed_from_step"] == 0


def test_killed_and_started_again_after_the_jobs_have_ended(
    cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed, left: str
) -> None:
    wait_until_all_ended(cluster, 120)
    assert "Nothing to be done" in long_workplace.run(FULL), "the job did all of it, Snakemake's records too"
    assert events(long_workplace) == [("submitted", left)]
    undisturbed.same_training(long_workplace)


def test_killed_before_the_job_was_written_down(long_workplace: Workplace, undisturbed: Undisturbed, left: str) -> None:
    (long_workplace.results / JOURNAL).unlink()
    output = long_workplace.run(FULL)
    assert f"Cancelling SLURM jobs of an earlier run: {left}; the run that submitted them died before" in output
    first, (event, new), *_ = events(long_workplace)
    assert first == ("cancelled", left), "before anything was submitted instead"
    assert event == "submitted"
    assert new != left
    undisturbed.same_training(long_workplace)


def test_killed_and_started_again_with_other_settings(long_workplace: Workplace, left: str) -> None:
    long_workplace.replace("  learning_rate: 2e-3", "  learning_rate: 1e-3")
    output = long_workplace.run(FULL)
    assert f"Cancelling SLURM jobs of an earlier run: {left}; their work has changed" in output
    recipe = long_workplace.json("checkpoints/full/manifest.json")["recipe"]
    assert recipe["training"]["learning_rate"] == 1e-3
    first, second, *_ = events(long_workplace)
    assert first == ("submitted", left)
    assert second == ("cancelled", left), "before anything was submitted instead"


def test_killed_while_predicting(cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed) -> None:
    run = long_workplace.start(VANILLA)
    try:
        wait_until(long_workplace.stored_lines, run)
        job = job_of(cluster, "predict")["id"]
        run.kill()
        run.wait()
    finally:
        kill_group(run)
    long_workplace.run(VANILLA)
    assert [number for event, number in events(long_workplace) if event == "submitted"] == [job]
    undisturbed.same_predictions(long_workplace)


def test_all_jobs_of_a_study_are_ended_by_one_command(
    cluster: Cluster, long_workplace: Workplace, run: subprocess.Popen[str]
) -> None:
    name = training_job(cluster, long_workplace, run)["name"]
    run.kill()
    run.wait()
    cluster.command("scancel", "--me", f"--name={name}")
    wait_until_all_ended(cluster)
    assert not long_workplace.programs("train")


def test_snakemake_itself_as_a_job(cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed) -> None:
    command = long_workplace.command(FULL)
    script = long_workplace.folder / "head.sh"
    script.write_text(f"#!/bin/sh\nexec {shlex.join(command)}\n")
    said = long_workplace.folder / "head.txt"
    where = ("--cpus-per-task=2", "--mem=4G", f"--output={said}", f"--chdir={long_workplace.folder}")
    cluster.command("sbatch", *where, str(script))
    wait_until_all_ended(cluster, 120)
    assert re.search(r"^(\d+) of \1  Training full", said.read_text(), re.MULTILINE)
    undisturbed.same_training(long_workplace)


def wait_until_all_ended(cluster: Cluster, seconds: float = 60) -> None:
    """Wait until the cluster has no job that waits or runs."""
    cluster.wait_for("all jobs to end", lambda: not cluster.jobs(WAITING_OR_RUNNING), seconds)
