"""Predicting users: nothing is generated twice, whatever happened before."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import Prepared
from usertune.data.prepare import prepare_user
from usertune.errors import UserError
from usertune.predict import predict_users

# Predicts as the JSON argument says; argument "stop" kills the process by SIGKILL as that batch begins.
PREDICT = """
import json, os, signal, sys
from pathlib import Path
arguments = json.loads(sys.argv[1])
if arguments.pop("block_torch", False):
    sys.modules["torch"] = None
stop = arguments.pop("stop", None)
if stop is not None:
    from usertune.generate import Generator
    original, calls = Generator._answer_batch, []
    def answer(self, samples, prompts):
        calls.append(len(samples))
        if len(calls) == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, samples, prompts)
    Generator._answer_batch = answer
from usertune.predict import predict_users
for key, value in arguments.items():
    if key.endswith("_manifests"):
        arguments[key] = [Path(item) for item in value]
    elif key.endswith(("base_manifest", "file", "folder", "root")):
        arguments[key] = Path(value)
predict_users(**arguments)
"""

Start = Callable[..., subprocess.Popen[str]]


def test_a_second_call_generates_nothing_and_needs_no_torch(
    prepared: Prepared, tmp_path: Path, run_python: Start
) -> None:
    arguments = prepared.predict_arguments(tmp_path, users=("1", "2"), batch_size=8)
    first = predict_users(**arguments)
    assert (first["generated"], first["reused"]) == (10, 0)
    assert [row["id"] for row in first["predictions"]] == [sample["id"] for sample in prepared.samples("1", "2")]
    (tmp_path / "predictions.json").unlink()
    process = run_python(PREDICT, {**arguments, "block_torch": True})
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    second = json.loads((tmp_path / "predictions.json").read_text())
    assert (second["generated"], second["reused"]) == (0, 10)
    for key in ("predictions", "predictions_sha256", "fingerprint"):
        assert second[key] == first[key]


def test_a_killed_job_repeats_at_most_one_batch(prepared: Prepared, tmp_path: Path, run_python: Start) -> None:
    undisturbed = predict_users(**prepared.predict_arguments(tmp_path / "undisturbed"))
    arguments = prepared.predict_arguments(tmp_path / "killed")
    process = run_python(PREDICT, {**arguments, "stop": 3})
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert not arguments["predictions_file"].exists()
    again = predict_users(**arguments)
    # Two batches of two were done; the batch in flight is all that is left.
    assert (again["generated"], again["reused"]) == (1, 4)
    assert again["predictions"] == undisturbed["predictions"]


def _prepare_copy(prepared: Prepared, folder: Path, **users: list[str]) -> Prepared:
    """Return the study with some users' raw lines replaced."""
    copy = replace(prepared, root=folder / "dataset", folder=folder / "data")
    shutil.copytree(prepared.root, copy.root)
    shutil.copytree(prepared.folder, copy.folder)
    recipe: dict[str, Any] = {"format": "messages", "task": "grounding", "on_bad_sample": "error"}
    for name, lines in users.items():
        (copy.root / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        user = name.removeprefix("user_")
        prepare_user(recipe, copy.root, user, copy.folder / f"{name}.jsonl", copy.manifest(user))
    return copy


def test_one_edited_sample_generates_exactly_one(prepared: Prepared, tmp_path: Path) -> None:
    first = predict_users(**prepared.predict_arguments(tmp_path))
    lines = (prepared.root / "user_1.jsonl").read_text().splitlines()
    edited = json.loads(lines[2])
    edited["messages"][0]["content"][1]["text"] += " Please."
    lines[2] = json.dumps(edited)
    copy = _prepare_copy(prepared, tmp_path / "edited", user_1=lines)
    second = predict_users(**copy.predict_arguments(tmp_path))
    assert (second["generated"], second["reused"]) == (1, 4)
    kept = [row for number, row in enumerate(second["predictions"]) if number != 2]
    assert kept == [row for number, row in enumerate(first["predictions"]) if number != 2]


def test_users_who_ask_the_same_each_get_their_answer(prepared: Prepared, tmp_path: Path) -> None:
    lines = (prepared.root / "user_1.jsonl").read_text().splitlines()
    copy = _prepare_copy(prepared, tmp_path / "same", user_2=lines)
    result = predict_users(**copy.predict_arguments(tmp_path, users=("1", "2"), batch_size=8))
    texts = [row["text"] for row in result["predictions"]]
    assert texts[:5] == texts[5:]
    assert [row["user"] for row in result["predictions"]] == ["1"] * 5 + ["2"] * 5


def test_weights_of_another_base_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"base_model": "0" * 64, "weights_fingerprint": "1" * 64}))
    arguments = {**prepared.predict_arguments(tmp_path), "train_manifest": tmp_path / "manifest.json"}
    with pytest.raises(UserError, match="trained on another base model"):
        predict_users(**arguments)
