"""Faults of the cluster while jobs run: in the end the results are those of an undisturbed run."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.slurm.conftest import FULL, VANILLA, Undisturbed, long_study, on_cluster
from tests.support.slurm_cluster import Cluster
from tests.support.workplace import Workplace, kill_group, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]
RETRY = "Trying to restart job"
Run = subprocess.Popen[str]


@contextmanager
def running(workplace: Workplace, *arguments: str) -> Iterator[Run]:
    """Run Snakemake, which must succeed, while the caller disturbs it."""
    run = workplace.start(*arguments)
    try:
        yield run
        assert run.wait(240) == 0, workplace.output
    finally:
        kill_group(run)


def training_job(cluster: Cluster, workplace: Workplace, run: Run) -> dict[str, str]:
    """Wait until some steps are trained; return SLURM's job."""
    wait_until(lambda: workplace.newest_checkpoint("full") > 0, run)
    return job_of(cluster, "train")


def waiting_training_job(cluster: Cluster, workplace: Workplace, run: Run) -> dict[str, str]:
    """Like `training_job`, but the training is suspended until SLURM wakes it, before it ends the job."""
    job = training_job(cluster, workplace, run)
    (program,) = workplace.programs("train")
    program.suspend()
    return job


def job_of(cluster: Cluster, rule: str) -> dict[str, str]:
    """Return SLURM's running job of a rule."""
    (job,) = [job for job in cluster.jobs("running") if f"rule_{rule}_" in job["comment"]]
    return job


def start_again_at_once(cluster: Cluster, job: str, run: Run) -> None:
    """Start a requeued job at once; SLURM would wait two minutes."""
    wait_until(lambda: any(one["id"] == job for one in cluster.jobs("pending")), run)
    cluster.command("scontrol", "update", f"JobId={job}", "StartTime=now")


def test_scancel_of_a_training_job(cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed) -> None:
    with running(long_workplace, FULL) as run:
        cluster.command("scancel", training_job(cluster, long_workplace, run)["id"])
    assert long_workplace.output.count(RETRY) == 1
    assert "ended as CANCELLED" in long_workplace.output
    manifest = undisturbed.same_training(long_workplace)
    assert manifest["resumed_from_step"] > 0


def test_scancel_of_a_prediction_job(cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed) -> None:
    with running(long_workplace, VANILLA) as run:
        wait_until(long_workplace.stored_lines, run)
        cluster.command("scancel", job_of(cluster, "predict")["id"])
    assert long_workplace.output.count(RETRY) == 1
    written = undisturbed.same_predictions(long_workplace)
    assert 0 < written["reused"] < len(undisturbed.predictions)


def test_requeue(cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed) -> None:
    with running(long_workplace, FULL) as run:
        job = waiting_training_job(cluster, long_workplace, run)["id"]
        cluster.command("scontrol", "requeue", job)
        start_again_at_once(cluster, job, run)
    assert RETRY not in long_workplace.output, "SLURM started it again, not Snakemake"
    assert undisturbed.same_training(long_workplace)["resumed_from_step"] > 0


def _preempt(cluster: Cluster, node: str) -> None:
    """Let a job of higher priority take the complete node for a moment."""
    what = ("--partition=urgent", f"--nodelist={node}", f"--cpus-per-task={cluster.cpus}", "--output=/dev/null")
    cluster.command("sbatch", *what, "--wrap=sleep 1")


def test_preemption_with_requeue(cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed) -> None:
    with running(long_workplace, FULL) as run:
        job = waiting_training_job(cluster, long_workplace, run)
        _preempt(cluster, job["node"])
        start_again_at_once(cluster, job["id"], run)
    assert RETRY not in long_workplace.output
    assert undisturbed.same_training(long_workplace)["resumed_from_step"] > 0


def test_preemption_without_requeue(cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed) -> None:
    with running(long_workplace, FULL, "--set-resources", "train:slurm_partition='fickle'") as run:
        _preempt(cluster, waiting_training_job(cluster, long_workplace, run)["node"])
    assert "ended as PREEMPTED and was not requeued" in long_workplace.output
    assert long_workplace.output.count(RETRY) == 1
    assert undisturbed.same_training(long_workplace)["resumed_from_step"] > 0


def test_requeued_and_held(cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed) -> None:
    with running(long_workplace, FULL) as run:
        cluster.command("scontrol", "requeuehold", waiting_training_job(cluster, long_workplace, run)["id"])
    assert "was requeued and held" in long_workplace.output
    assert long_workplace.output.count(RETRY) == 1
    assert undisturbed.same_training(long_workplace)["resumed_from_step"] > 0


def test_a_limit_above_that_of_the_partition_is_reported_and_ends_the_run(long_workplace: Workplace) -> None:
    # The test cluster accepts such jobs, as clusters without EnforcePartLimits do, and never starts them.
    limits = ("--set-resources", "train:slurm_partition='short'", "train:runtime=120")
    code, output = long_workplace.snakemake(FULL, *limits, "--retries", "0")
    assert code != 0
    assert "can never start (PartitionTimeLimit); ask for less in the profile" in output or (
        "Lower runtime in profiles/slurm/config.yaml" in output
    )


def _told_to_leave(process: psutil.Process) -> bool:
    """Whether SIGTERM waits for a suspended process."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except FileNotFoundError:
        # Where SLURM wakes it with the signal, it may have left already.
        return True
    pending = re.findall(r"^(?:SigPnd|ShdPnd):\s*(\S+)$", status, re.MULTILINE)
    return any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in pending)


def test_time_limits(cluster: Cluster, long_workplace: Workplace, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """With the warning of the profile and without; both at once, since most of it is waiting for the time to pass."""
    # SLURM is up to a minute early, so that it may stop an attempt before the attempt has begun.
    warning = ("--set-resources", "train:runtime=2 * attempt", "--default-resources", "slurm_extra='--signal=TERM@60'")
    no_warning = ("--set-resources", "train:runtime=attempt", "--default-resources", "slurm_extra=''")
    surprised = on_cluster(long_study(tmp_path / "surprised"), cluster)
    with running(long_workplace, FULL, *warning) as run, running(surprised, FULL, *no_warning) as other_run:
        # Suspended, so that they are still at work when their time is over; then SLURM wakes them.
        for workplace, own in ((surprised, other_run), (long_workplace, run)):
            wait_until(lambda: workplace.newest_checkpoint("full") > 0, own)  # noqa: B023
            (program,) = workplace.programs("train")
            program.suspend()
        wait_until(lambda: _told_to_leave(program), run)
        with suppress(psutil.NoSuchProcess):
            program.resume()
    assert RETRY in long_workplace.output
    assert "SIGTERM: saving a checkpoint after this step" in long_workplace.output
    assert "ended as TIMEOUT" in surprised.output
    assert surprised.output.count(RETRY) == 1
    for workplace in (long_workplace, surprised):
        assert undisturbed.same_training(workplace)["resumed_from_step"] > 0


def test_a_lost_node_whose_job_lives_on(cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed) -> None:
    with running(long_workplace, FULL) as run:
        job = training_job(cluster, long_workplace, run)
        (first,) = long_workplace.programs("train")
        first.suspend()
        cluster.kill_node(job["node"])
        try:
            start_again_at_once(cluster, job["id"], run)
            log = long_workplace.results / "logs/train/full.log"
            # Two attempts are alive now: one believed dead, and one that waits for it.
            wait_until(lambda: log.exists() and "another process is training full already" in log.read_text(), run)
            assert first in long_workplace.programs("train")
            first.resume()
            run.wait(200)
        finally:
            cluster.start_node(job["node"])
            cluster.wait_until_idle()
    assert RETRY not in long_workplace.output
    manifest = undisturbed.same_training(long_workplace)
    assert manifest["resumed_from_step"] == 0, "the first attempt did all the work"


def test_restart_of_the_controller(cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed) -> None:
    with running(long_workplace, FULL) as run:
        training_job(cluster, long_workplace, run)
        (program,) = long_workplace.programs("train")
        program.suspend()
        cluster.stop_controller()
        try:
            # Longer than several polls of the queue.
            wait_until(lambda: long_workplace.output.count("SLURM does not answer") >= 2, run)
        finally:
            cluster.start_controller()
            cluster.wait_until_idle()
        program.resume()
    assert RETRY not in long_workplace.output
    assert undisturbed.same_training(long_workplace)["resumed_from_step"] == 0


def test_a_job_that_ends_while_the_controller_is_away(
    cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed
) -> None:
    with running(long_workplace, FULL) as run:
        training_job(cluster, long_workplace, run)
        cluster.stop_controller()
        try:
            wait_until((long_workplace.folder / FULL).exists, run)
            time.sleep(2)
        finally:
            cluster.start_controller()
            cluster.wait_until_idle()
    undisturbed.same_training(long_workplace)


def test_out_of_memory(cluster: Cluster, long_workplace: Workplace, undisturbed: Undisturbed) -> None:
    long_workplace.replace("  micro_batch_size: 1", "  micro_batch_size: 2")
    memory = "train:mem_mb=400 if attempt == 1 else 8000"
    with running(long_workplace, FULL, "--set-resources", memory):
        pass
    assert long_workplace.output.count(RETRY) == 1
    manifest = long_workplace.json("checkpoints/full/manifest.json")
    assert manifest["micro_batch_size"] == 1
    assert manifest["fingerprint"] == undisturbed.training["fingerprint"]
    # Sums of other micro-batches differ in their last digits.
    assert manifest["final_validation_loss"] == pytest.approx(undisturbed.training["final_validation_loss"], rel=2e-2)
