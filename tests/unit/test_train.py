"""Training an experiment once, and only once."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.unit.conftest import Prepared
from usertune.errors import UserError
from usertune.fingerprint import digest_folder
from usertune.train import train_experiment

# Trains as the JSON argument says, where torch cannot be imported.
WITHOUT_TORCH = """
import json, sys
from pathlib import Path
sys.modules["torch"] = None
from usertune.train import train_experiment
arguments = json.loads(sys.argv[1])
for key, value in arguments.items():
    if key.endswith("_manifests"):
        arguments[key] = [Path(item) for item in value]
    elif key.endswith(("manifest", "file", "root")):
        arguments[key] = Path(value)
train_experiment(**arguments)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def trained(prepared: Prepared, tmp_path: Path) -> dict[str, Any]:
    """The arguments of a training that was done."""
    arguments = prepared.train_arguments(tmp_path)
    train_experiment(**arguments)
    return arguments


def _weights(out: Path) -> Path:
    return out / json.loads((out / "manifest.json").read_text())["weights_folder"]


def _times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_the_manifest_says_what_was_trained_and_how(trained: dict[str, Any], tmp_path: Path) -> None:
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {
        "step": "train",
        "experiment": "lora",
        "mode": "lora",
        "recipe": trained["recipe"],
        "train_samples": 6,
        "validation_samples": 3,
        "steps": 2,
        "gpus": [],
    }.items() <= manifest.items()
    measured = ("wall_seconds", "samples_per_second", "tokens_per_second", "peak_memory_bytes", "trainable_parameters")
    assert all(manifest[key] > 0 for key in measured)
    assert manifest["weights_files"] == digest_folder(_weights(tmp_path))
    assert {"fingerprint", "base_model", "weights_fingerprint", "versions"} <= manifest.keys()
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert header == "step,epoch,split,loss,learning_rate"
    assert [row.split(",")[2] for row in rows] == ["train", "train", "validation"]
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_a_second_call_trains_nothing_and_needs_no_torch(
    trained: dict[str, Any], tmp_path: Path, run_python: Start
) -> None:
    before, times = (tmp_path / "manifest.json").read_text(), _times(_weights(tmp_path))
    log = (tmp_path / "log.csv").read_text()
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "log.csv").unlink()
    process = run_python(WITHOUT_TORCH, trained)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert (tmp_path / "manifest.json").read_text() == before
    assert (tmp_path / "log.csv").read_text() == log
    assert _times(_weights(tmp_path)) == times


def test_a_training_that_is_needed_does_need_torch(prepared: Prepared, tmp_path: Path, run_python: Start) -> None:
    process = run_python(WITHOUT_TORCH, prepared.train_arguments(tmp_path))
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "import of torch halted" in error


@pytest.mark.parametrize("damage", ["deleted", "truncated"])
def test_damaged_weights_are_trained_again(trained: dict[str, Any], tmp_path: Path, damage: str) -> None:
    before = digest_folder(_weights(tmp_path))
    weights = _weights(tmp_path) / "adapter_model.safetensors"
    if damage == "deleted":
        weights.unlink()
    else:
        os.truncate(weights, weights.stat().st_size // 2)
    train_experiment(**trained)
    assert digest_folder(_weights(tmp_path)) == before


def test_two_processes_do_not_train_the_same_thing_at_once(trained: dict[str, Any], tmp_path: Path) -> None:
    with (
        FileLock(_weights(tmp_path).parent / ".lock"),
        pytest.raises(UserError, match="another process is training this experiment"),
    ):
        train_experiment(**trained)
