"""Several processes that train one model: real ones, started by torchrun, on the CPU."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.support.calls import train
from tests.support.several_processes import (
    PATIENCE,
    TWO,
    Start,
    assert_same_losses,
    assert_same_weights,
    request_stop,
    start_training,
    training_arguments,
    weights_of,
    work_of,
)
from tests.unit.conftest import Prepared
from usertune.core.errors import FinalError, UserError
from usertune.core.manifest import read_result
from usertune.runtime.step_main import EXIT_TRY_AGAIN, EXIT_USER_ERROR
from usertune.training.callbacks import newest_checkpoint
from usertune.training.distributed.launch import EXCHANGE
from usertune.training.processes import Processes
from usertune.training.working_folder import WEIGHTS

ALONE = Processes()


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_two_processes_train_what_one_trains(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    # Left behind by another launcher: they do not count.
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "MASTER_PORT": "1", "PET_NNODES": "2"}.items():
        monkeypatch.setenv(name, value)
    one, two = tmp_path / "one", tmp_path / "two"
    train(**training_arguments(prepared, one, mode))
    manifest = train(**training_arguments(prepared, two, mode, gradient_checkpointing=True), processes=TWO)
    assert_same_losses(two / "log.csv", one / "log.csv")
    assert_same_weights(weights_of(two), weights_of(one))
    alone = read_result(one / "manifest.json")
    assert manifest["fingerprint"] == alone["fingerprint"]
    assert manifest.keys() == alone.keys()
    assert (manifest["processes"], manifest["parallel"], manifest["gpus_used"]) == (2, "ddp", [])
    assert (alone["processes"], alone["parallel"], alone["gpus_used"]) == (1, None, [])
    assert not list(work_of(two).glob(f"{EXCHANGE}*"))
    # The work is found done, by however many.
    assert train(**training_arguments(prepared, two, mode)) == manifest


def test_sharding_without_gpus_is_refused_and_not_replaced_by_something_else(
    prepared: Prepared, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        train(**training_arguments(prepared, tmp_path, "full"), processes=replace(TWO, strategy="fsdp"))
    assert str(refused.value) == (
        "training should run as 2 processes with fsdp, but was set up as 2 processes with ddp; there is no GPU here, "
        "and FSDP needs GPUs: set parallel: ddp for this experiment"
    )
    assert not (tmp_path / "manifest.json").exists()


def test_a_loss_that_is_not_finite_in_one_process_stops_all_with_one_message(
    prepared: Prepared, tmp_path: Path
) -> None:
    arguments = training_arguments(prepared, tmp_path, save_every_steps=1)
    arguments["recipe"]["training"] |= {"learning_rate": 1e30, "warmup_steps": 0}
    with pytest.raises(FinalError, match=r"^training stopped at step 2 of 10, .* the loss is nan, .*samples: 1"):
        train(**arguments, processes=TWO)
    assert not list(tmp_path.rglob(WEIGHTS))


def test_two_nodes_need_a_slurm_job(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match="nodes: 2 needs a SLURM job, and this is not one"):
        train(**training_arguments(prepared, tmp_path), processes=Processes(nodes=2))


@pytest.fixture(scope="module")
def undisturbed(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of 40 steps by one process."""
    out = tmp_path_factory.mktemp("undisturbed")
    train(**training_arguments(prepared, out, epochs=8))
    return out


def _finish(prepared: Prepared, out: Path, undisturbed: Path, processes: Processes) -> None:
    """Resume the same training from its checkpoint, and compare the results."""
    checkpoint = newest_checkpoint(work_of(out))
    assert checkpoint is not None
    step = int(checkpoint.name.rpartition("-")[2])
    manifest = train(**training_arguments(prepared, out, epochs=8), processes=processes)
    assert 0 < manifest["resumed_from_step"] == step < manifest["steps"] == 40
    assert_same_losses(out / "log.csv", undisturbed / "log.csv")
    assert_same_weights(weights_of(out), weights_of(undisturbed), tolerance=1e-3)


def _children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def _workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [
        child for child in _children(process) if "usertune.training.distributed.training_process" in child.cmdline()
    ]


def test_a_run_resumes_with_more_and_with_fewer_processes(
    prepared: Prepared, tmp_path: Path, undisturbed: Path, run_python: Start
) -> None:
    """One process, then two, two again, and finally one: the result is that of an undisturbed training."""
    request_stop(start_training(run_python, prepared, tmp_path, nproc_per_node=1))
    error = request_stop(start_training(run_python, prepared, tmp_path, nproc_per_node=2))
    assert "interrupted; finished work is kept" in error
    assert "Traceback" not in error
    # Repeated signals to every process leave a checkpoint, too.
    process = start_training(run_python, prepared, tmp_path, nproc_per_node=2)
    children = _children(process)
    assert len(children) == 3, "torchrun and two training processes"
    process.send_signal(signal.SIGTERM)
    for _ in range(3):
        for child in children:
            if child.is_running():
                child.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == EXIT_TRY_AGAIN, error
    _finish(prepared, tmp_path, undisturbed, ALONE)


def test_a_killed_process_ends_the_others_and_is_named(
    prepared: Prepared, tmp_path: Path, undisturbed: Path, run_python: Start
) -> None:
    for rank in (0, 1):
        process = start_training(run_python, prepared, tmp_path, nproc_per_node=2)
        children = _children(process)
        (victim,) = (worker for worker in _workers(process) if worker.environ()["RANK"] == str(rank))
        victim.kill()
        _, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == EXIT_USER_ERROR, error
        last = error.splitlines()[-1]
        assert last.startswith(f"process {rank} of 2 (on ")
        assert "was ended by SIGKILL, perhaps for lack of memory (exit code -9)" in last
        assert not psutil.wait_procs(children, timeout=30)[1]
    process = start_training(run_python, prepared, tmp_path, nproc_per_node=2)
    children = _children(process)
    assert len(children) == 3
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert not psutil.wait_procs(children, timeout=30)[1], "no process outlives the program"
    _finish(prepared, tmp_path, undisturbed, TWO)


def test_weights_of_two_processes_are_complete_when_they_are_there(prepared: Prepared, tmp_path: Path) -> None:
    train(**training_arguments(prepared, tmp_path, "full", epochs=1), processes=TWO)
    assert sorted(path.name for path in work_of(tmp_path).iterdir() if path.is_dir()) == [WEIGHTS]
