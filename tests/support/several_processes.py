"""Trainings by several processes, and comparisons of their results."""

from __future__ import annotations

import csv
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.conftest import EXECUTION, WITH_ARGUMENTS, Prepared
from usertune.core.manifest import read_result
from usertune.runtime.step_main import EXIT_TRY_AGAIN
from usertune.training.processes import Processes

# Seconds, on a machine that others use, too.
PATIENCE = 200

TWO = Processes(nproc_per_node=2)

# Trains with these arguments, as scripts/train.py does.
TRAIN = f"""{WITH_ARGUMENTS}
from usertune.runtime import step_main
from usertune.training.processes import Processes
from tests.support.calls import train
processes = Processes(nproc_per_node=arguments.pop("nproc_per_node"))
step_main.run(step_main.argument_parser("train"), lambda _: train(**arguments, processes=processes))
"""

Start = Callable[..., subprocess.Popen[str]]


def training_arguments(
    prepared: Prepared, out: Path, mode: str = "lora", epochs: int = 2, **execution: Any
) -> dict[str, Any]:
    """Return a training on 17 samples in steps of 4: the last step of an epoch has one."""
    arguments = prepared.train_arguments(out, prepared.train_recipe(mode, epochs=epochs))
    arguments["train_manifests"] = [prepared.manifest(user) for user in ("11", "12", "1")]
    arguments["execution"] = {**EXECUTION, "micro_batch_size": 1, **execution}
    return arguments


def loss_table(path: Path) -> list[tuple[str, str, float]]:
    """Return the rows of a table of losses: step, split, loss."""
    with path.open(newline="") as table:
        return [(row["step"], row["split"], float(row["loss"])) for row in csv.DictReader(table)]


def assert_same_losses(found: Path, expected: Path) -> None:
    """Compare two tables of losses: the same rows, equal up to rounding."""
    assert [row[:2] for row in loss_table(found)] == [row[:2] for row in loss_table(expected)]
    assert [row[2] for row in loss_table(found)] == pytest.approx([row[2] for row in loss_table(expected)], rel=1e-4)


def assert_same_weights(found: Path, expected: Path, tolerance: float = 1e-4) -> None:
    """Compare two folders of weights: the same files, shapes and dtypes, equal up to ``tolerance``."""
    assert sorted(path.name for path in found.iterdir()) == sorted(path.name for path in expected.iterdir())
    (file,) = expected.glob("*.safetensors")
    weights = load_file(found / file.name)
    reference = load_file(file)
    assert weights.keys() == reference.keys()
    for name, value in reference.items():
        assert (weights[name].shape, weights[name].dtype) == (value.shape, value.dtype)
        torch.testing.assert_close(weights[name], value, rtol=0, atol=tolerance)


def weights_of(out: Path) -> Path:
    """Return the folder of the weights of a finished training."""
    return out / str(read_result(out / "manifest.json")["weights_folder"])


def work_of(out: Path) -> Path:
    """Return the working folder of a training."""
    (work,) = (path for path in out.iterdir() if path.is_dir())
    return work


def complete_checkpoints(out: Path) -> Iterator[Path]:
    """Yield the markers of working checkpoints."""
    return out.glob("*/checkpoint-*/complete.json")


def start_training(
    run_python: Start, prepared: Prepared, out: Path, nproc_per_node: int, mode: str = "lora", epochs: int = 8
) -> subprocess.Popen[str]:
    """Start a training, that of `undisturbed` if no other is named, and wait until it has a new checkpoint."""
    arguments = training_arguments(prepared, out, mode, epochs, save_every_steps=1)
    before = set(complete_checkpoints(out))
    process = run_python(TRAIN, {**arguments, "nproc_per_node": nproc_per_node})
    deadline = time.monotonic() + PATIENCE
    while set(complete_checkpoints(out)) <= before:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def request_stop(process: subprocess.Popen[str]) -> str:
    """Send a training SIGTERM, and return what it said on standard error."""
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == EXIT_TRY_AGAIN, error
    return error
