"""Trainings that are stopped, and resume from their checkpoints."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.support.fine_tuning import (
    fine_tuning,
    measure,
    same_weights,
    stop_after,
    train_and_read,
)
from tests.unit.conftest import TRAIN_STEP_BY_STEP, Prepared
from usertune.core.errors import StopRequested, UserError
from usertune.core.files import read_json
from usertune.core.manifest import write_result
from usertune.runtime.step_main import EXIT_TRY_AGAIN
from usertune.training import callbacks
from usertune.training.callbacks import CHECKPOINT_MARKER, StopOnSignal, newest_checkpoint
from usertune.training.effort import RECORD
from usertune.training.trainer import SparseLossTrainer, answer_loss_sum


@pytest.mark.parametrize("steps", [1, 4, 6])
def test_a_stopped_run_resumes_to_exactly_the_same_result(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    run = fine_tuning(prepared)
    undisturbed = train_and_read(run, tmp_path / "undisturbed")
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        stop_after(steps, patch)
        with pytest.raises(StopRequested) as stopped:
            train_and_read(run, tmp_path / "stopped")
    assert stopped.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert not (tmp_path / "stopped" / "weights").exists()
    assert newest_checkpoint(tmp_path / "stopped" / "work") == tmp_path / "stopped" / "work" / f"checkpoint-{steps}"
    table, weights = train_and_read(run, tmp_path / "stopped")
    assert table == undisturbed[0]
    assert same_weights(weights, undisturbed[1])


@pytest.mark.parametrize(("seconds", "checkpoints"), [(3600.0, 0), (0.0, 1)])
def test_the_last_step_has_a_checkpoint_only_if_it_saves_time(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, checkpoints: int
) -> None:
    monkeypatch.setattr(callbacks, "WORTH_SECONDS", seconds)
    train_and_read(fine_tuning(prepared), tmp_path)
    assert len(list((tmp_path / "work").glob(f"checkpoint-*/{CHECKPOINT_MARKER}"))) == checkpoints
    assert not (tmp_path / "weights" / "README.md").exists(), "PEFT's empty model card"


@pytest.mark.parametrize("error", [RuntimeError("a worker is killed"), EOFError(), ConnectionResetError()], ids=repr)
def test_what_an_ended_loader_worker_raises_after_a_stop_signal_is_an_interruption(
    error: Exception, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal of a scheduler ends the workers, too, wherever the training reads from them."""

    def train(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise error

    handler = signal.getsignal(signal.SIGCHLD)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(SparseLossTrainer, "train", train)
            with pytest.raises(StopRequested):
                train_and_read(fine_tuning(prepared), tmp_path)
    finally:
        signal.signal(signal.SIGCHLD, handler)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_checkpoint_of_other_weights_is_not_resumed_from(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(StopRequested):
            train_and_read(fine_tuning(prepared, mode), tmp_path)
    (file,) = (tmp_path / "work" / "checkpoint-1").glob("*model.safetensors")
    content = file.read_bytes()
    # As long as before: sizes are compared earlier.
    file.write_bytes(content.replace(b"language_model", b"language_modes"))
    with pytest.raises(UserError, match=r"checkpoint-1: .* missing .* unexpected .*language_modes.*starts again"):
        train_and_read(fine_tuning(prepared, mode), tmp_path)
    file.write_bytes(content)
    train_and_read(fine_tuning(prepared, mode), tmp_path)


def test_a_second_stop_signal_ends_at_once_and_is_no_interruption_by_a_person() -> None:
    stop = StopOnSignal()
    with stop:
        signal.raise_signal(signal.SIGUSR1)
        assert stop.signal == signal.SIGUSR1
        with pytest.raises(StopRequested) as stopped:
            signal.raise_signal(signal.SIGTERM)
    assert stopped.value.signal == signal.SIGTERM


def test_an_unfinished_or_damaged_checkpoint_is_removed_and_not_resumed_from(tmp_path: Path) -> None:
    for step in (2, 10, 12, 14, 16, 18):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "optimizer.pt").write_bytes(b"state")
        write_result(folder / CHECKPOINT_MARKER, {"step": step, "sizes": {"optimizer.pt": 5}})
    (tmp_path / "checkpoint-12" / CHECKPOINT_MARKER).unlink()
    os.truncate(tmp_path / "checkpoint-14" / CHECKPOINT_MARKER, 20)
    os.truncate(tmp_path / "checkpoint-16" / "optimizer.pt", 3)
    (tmp_path / "checkpoint-18" / "optimizer.pt").unlink()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-2"]


def test_a_checkpoint_that_is_not_finite_is_not_resumed_from(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fine_tuning(prepared)
    run = replace(run, execution=run.execution.model_copy(update={"save_every_steps": 2}))
    undisturbed = train_and_read(run, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(StopRequested):
            train_and_read(run, tmp_path / "run")
    weights = tmp_path / "run" / "work" / "checkpoint-4" / "adapter_model.safetensors"
    size = weights.stat().st_size
    save_file({name: value * math.nan for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    assert weights.stat().st_size == size
    assert newest_checkpoint(tmp_path / "run/work") == tmp_path / "run" / "work" / "checkpoint-2"
    table, trained = train_and_read(run, tmp_path / "run")
    assert table == undisturbed[0]
    assert same_weights(trained, undisturbed[1])


def test_the_cost_is_that_of_all_attempts(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fine_tuning(prepared)
    run = replace(run, execution=run.execution.model_copy(update={"save_every_steps": 2}))
    undisturbed = measure(run, tmp_path / "undisturbed")
    assert (undisturbed["attempts"], undisturbed["computed_steps"], undisturbed["computed_samples"]) == (1, 6, 24)

    def die(*_: Any) -> Any:
        raise RuntimeError("killed")

    # Killed in step 4; step 3 is lost too: the checkpoint is that of step 2.
    with monkeypatch.context() as patch:
        steps = iter([*[answer_loss_sum] * 3, die])
        patch.setattr("usertune.training.trainer.answer_loss_sum", lambda *arguments: next(steps)(*arguments))
        patch.setattr("usertune.training.effort.EVERY_SECONDS", 0.0)
        with pytest.raises(RuntimeError, match="killed"):
            measure(run, tmp_path / "killed")
    first = read_json(tmp_path / "killed/work" / RECORD)["attempts"][0]
    assert (first["steps"], first["samples"]) == (3, 12)
    resumed = measure(run, tmp_path / "killed")
    assert (resumed["attempts"], resumed["resumed_from_step"], resumed["steps"]) == (2, 2, 6)
    assert (resumed["computed_steps"], resumed["computed_samples"]) == (3 + 4, 4 * (3 + 4))
    assert resumed["computed_tokens"] > undisturbed["computed_tokens"]
    assert resumed["wall_seconds"] > first["wall_seconds"] > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_to_a_training_process_leaves_a_checkpoint(
    number: int, prepared: Prepared, tmp_path: Path, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    process = run_python(TRAIN_STEP_BY_STEP, prepared.train_arguments(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    process.send_signal(number)
    _, error = process.communicate("\n" * 9, timeout=240)
    assert process.returncode == EXIT_TRY_AGAIN, error
    assert len(list(tmp_path.glob(f"*/checkpoint-1/{CHECKPOINT_MARKER}"))) == 1
    assert not (tmp_path / "manifest.json").exists()
