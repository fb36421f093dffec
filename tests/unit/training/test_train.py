"""Training an experiment once, and only once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import train
from tests.support.stand_ins import StandInTrainer, without_a_model
from tests.unit.conftest import EXECUTION, TRAIN_STEP_BY_STEP, WITH_ARGUMENTS, Prepared
from usertune.core.errors import FinalError
from usertune.core.hashing import digest_file, digest_folder
from usertune.core.manifest import read_result, write_result
from usertune.runtime.provenance import UNKNOWN, current_provenance
from usertune.training.working_folder import COMPLETE

# Trains with these arguments, without torch.
WITHOUT_TORCH = f"""{WITH_ARGUMENTS}
import logging
sys.modules["torch"] = None
from tests.support.calls import train
logging.basicConfig(level=logging.INFO)
train(**arguments)
"""

# Trains with these arguments, as a program with a log.
TRAIN = f"""{WITH_ARGUMENTS}
from usertune.runtime import step_main
from tests.support.calls import train
sys.argv += ["--log", str(arguments["log_file"].with_name("train.log"))]
step_main.run(step_main.argument_parser("train"), lambda _: train(**arguments))
"""

FAMILY = ("usertune.models.families.qwen3_vl",)
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def trained(prepared: Prepared, tmp_path: Path) -> dict[str, Any]:
    """The arguments of a training that was done."""
    arguments = prepared.train_arguments(tmp_path)
    train(**arguments)
    return arguments


def _weights(out: Path) -> Path:
    return Path(out / read_result(out / "manifest.json")["weights_folder"])


def _times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_the_manifest_says_what_was_trained_and_how(trained: dict[str, Any], tmp_path: Path) -> None:
    manifest = read_result(tmp_path / "manifest.json")
    assert {
        "step": "train",
        "experiment": "lora",
        "mode": "lora",
        "recipe": trained["recipe"],
        "train_samples": 6,
        "validation_samples": 3,
        "steps": 2,
        "attempts": 1,
        "computed_steps": 2,
        "computed_samples": 6,
        "kept_step": 2,
        "ended": "after all steps",
        "gpus": [],
    }.items() <= manifest.items()
    measured = (
        "wall_seconds",
        "samples_per_second",
        "tokens_per_second",
        "peak_memory_bytes",
        "trainable_parameters",
        "weights_moved",
    )
    assert all(manifest[key] > 0 for key in measured)
    assert manifest["weights_files"] == digest_folder(_weights(tmp_path))
    assert manifest["files"] == {"log.csv": digest_file(tmp_path / "log.csv")}
    assert manifest["lineage"] == {"base_model": manifest["inputs"]["base_model"], "train": manifest["fingerprint"]}
    assert manifest["provenance"] == [current_provenance("train", plug_ins=FAMILY)]
    for name, state in manifest["weights_state"].items():
        stat = (_weights(tmp_path) / name).stat()
        assert state == [stat.st_size, stat.st_mtime_ns]
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert header == "step,epoch,split,loss,learning_rate"
    assert [row.split(",")[2] for row in rows] == ["train", "train", "validation"]
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_a_warm_up_that_reaches_the_number_of_steps_is_refused_before_torch_is_loaded(
    prepared: Prepared, tmp_path: Path, run_python: Start
) -> None:
    arguments = prepared.train_arguments(tmp_path, prepared.train_recipe(warmup_steps=4))
    _, error = run_python(WITHOUT_TORCH, arguments).communicate(timeout=60)
    assert "training.warmup_steps of experiment lora is 4, but training takes only 4 steps" in error.splitlines()[-1]


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


def test_variables_that_a_launcher_left_behind_do_not_count(
    prepared: Prepared, tmp_path: Path, run_python: Start
) -> None:
    left = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    other = {"PMI_SIZE": "2", "ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": "bf16"}
    arguments = prepared.train_arguments(tmp_path)
    process = run_python(TRAIN, arguments, **left, **other)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    manifest = read_result(tmp_path / "manifest.json")
    assert (manifest["processes"], manifest["parallel"], manifest["steps"]) == (1, None, 2)
    assert "ignoring variables of a launcher that did not start this process: ACCELERATE_MIXED_PRECISION, " in error
    record = json.loads((tmp_path / "train.progress.json").read_text())
    assert record["progress"]["done"] == 2


def test_after_a_failure_that_is_final_only_a_new_run_tries_again(
    prepared: Prepared, tmp_path: Path, run_python: Start
) -> None:
    recipe = prepared.train_recipe(learning_rate=1e30, warmup_steps=0)
    arguments = {**prepared.train_arguments(tmp_path, recipe), "execution": {**EXECUTION, "save_every_steps": 1}}
    with pytest.raises(FinalError, match="training stopped at") as first:
        train(**arguments)
    process = run_python(WITHOUT_TORCH, {**arguments, "attempt": 2})
    _, error = process.communicate(timeout=60)
    last = f"{first.value} (the previous attempt failed with this error; this one was not started)"
    assert error.splitlines()[-1].endswith(last)
    assert not list(tmp_path.rglob("weights"))
    with pytest.raises(FinalError) as again:
        train(**arguments)
    assert str(again.value) == str(first.value)


@pytest.mark.parametrize("damage", ["deleted", "truncated"])
def test_damaged_weights_are_trained_again(trained: dict[str, Any], tmp_path: Path, damage: str) -> None:
    before = digest_folder(_weights(tmp_path))
    weights = _weights(tmp_path) / "adapter_model.safetensors"
    if damage == "deleted":
        weights.unlink()
    else:
        os.truncate(weights, weights.stat().st_size // 2)
    train(**trained)
    assert digest_folder(_weights(tmp_path)) == before


def test_weights_that_an_older_release_trained_are_found(trained: dict[str, Any], tmp_path: Path) -> None:
    complete = _weights(tmp_path).parent / COMPLETE
    result = read_result(complete)
    old = {"made_with": result.pop("provenance")}
    write_result(complete, {**result, **old})
    assert _trainings(**trained) == 0
    assert read_result(tmp_path / "manifest.json")["provenance"] == old["made_with"]


def test_of_two_processes_one_trains_and_the_other_waits_and_trains_nothing(
    prepared: Prepared, tmp_path: Path, run_python: Start
) -> None:
    arguments = prepared.train_arguments(tmp_path)
    first = run_python(TRAIN_STEP_BY_STEP, arguments)
    assert first.stdout is not None
    assert first.stdout.readline() == "1\n"
    second = run_python(WITHOUT_TORCH, arguments)
    assert second.stderr is not None
    assert "another process is training lora already; waiting for it" in second.stderr.readline()
    assert second.poll() is None
    _, error = first.communicate("\n" * 9, timeout=60)
    assert first.returncode == 0, error
    manifest = (tmp_path / "manifest.json").read_bytes()
    _, error = second.communicate(timeout=60)
    assert second.returncode == 0, error
    assert "lora is already trained" in error
    assert (tmp_path / "manifest.json").read_bytes() == manifest


@pytest.fixture
def strict(prepared: Prepared, tmp_path: Path) -> dict[str, Any]:
    """The arguments of a training that counts only what was made with the code and packages of today."""
    recipe = {**prepared.train_recipe(epochs=1), "provenance": {"code": "of the plan", "versions": {}}}
    return prepared.train_arguments(tmp_path, recipe)


def _trainings(**arguments: Any) -> int:
    """Train with the stand-in; return how often it had to."""
    before = StandInTrainer.trained
    with without_a_model():
        train(**arguments)
    return StandInTrainer.trained - before


@pytest.mark.parametrize("changed", ["code", "package"])
def test_what_other_code_or_packages_trained_is_trained_again_if_the_study_says_so(
    prepared: Prepared, strict: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    lenient = prepared.train_arguments(tmp_path)
    assert _trainings(**strict) == 1
    assert _trainings(**strict) == 0
    if changed == "code":
        monkeypatch.setattr("usertune.runtime.provenance.code_version", lambda step, _plug_ins: f"new {step}")
    else:
        monkeypatch.setattr("usertune.runtime.provenance.installed_versions", lambda: {"python": "9"})
    assert _trainings(**lenient) == 0
    before = read_result(tmp_path / "manifest.json")
    assert _trainings(**strict) == 1
    assert _trainings(**strict) == 0
    after = read_result(tmp_path / "manifest.json")
    assert before["fingerprint"] == after["fingerprint"]
    assert before["provenance"] != after["provenance"] == [current_provenance("train", plug_ins=FAMILY)]


def _interrupt(arguments: dict[str, Any], record: dict[str, Any]) -> Path:
    """Leave what a training made with other code leaves when it is killed; return its working checkpoint."""
    _trainings(**arguments)
    work = _weights(arguments["manifest_file"].parent).parent
    (work / COMPLETE).unlink()
    (work / "checkpoint-1").mkdir()
    write_result(work / "provenance.json", {"provenance": [record]})
    return work / "checkpoint-1"


def test_a_resumed_training_names_all_who_took_part(prepared: Prepared, tmp_path: Path) -> None:
    arguments = prepared.train_arguments(tmp_path)
    earlier = {**current_provenance("train", plug_ins=FAMILY), "code": "earlier"}
    _interrupt(arguments, earlier)
    assert _trainings(**arguments) == 1
    assert read_result(tmp_path / "manifest.json")["provenance"] == [
        earlier,
        current_provenance("train", plug_ins=FAMILY),
    ]


@pytest.mark.parametrize("code", ["earlier", "today's"])
def test_a_checkpoint_of_other_code_is_not_resumed_from_if_the_study_says_so(
    strict: dict[str, Any], caplog: pytest.LogCaptureFixture, code: str
) -> None:
    other = code == "earlier"
    checkpoint = _interrupt(
        strict,
        {**current_provenance("train", plug_ins=FAMILY), "code": code}
        if other
        else current_provenance("train", plug_ins=FAMILY),
    )
    with without_a_model(), pytest.MonkeyPatch.context() as patch:
        # Checkpoints go when training ends well, so this one must not.
        patch.setattr(sys.modules["usertune.training.finetune"], "fine_tune", _fail)
        with caplog.at_level("INFO"), pytest.raises(RuntimeError, match="interrupted again"):
            train(**strict)
    assert checkpoint.exists() != other
    assert ("made with other code or packages (code earlier -> " in caplog.text) == other
    provenance = read_result(checkpoint.parent / "provenance.json")["provenance"]
    assert provenance == [current_provenance("train", plug_ins=FAMILY)]


def _fail(*_: Any) -> None:
    raise RuntimeError("interrupted again")


def test_a_damaged_record_is_an_unknown_maker(prepared: Prepared, tmp_path: Path) -> None:
    arguments = prepared.train_arguments(tmp_path)
    checkpoint = _interrupt(arguments, current_provenance("train", plug_ins=FAMILY))
    (checkpoint.parent / "provenance.json").write_text("{}")
    assert _trainings(**arguments) == 1
    assert read_result(tmp_path / "manifest.json")["provenance"] == [
        UNKNOWN,
        current_provenance("train", plug_ins=FAMILY),
    ]
