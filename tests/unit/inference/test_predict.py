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

from tests.support.calls import predict, prepare_one
from tests.support.stand_ins import SECONDS, without_a_model
from tests.unit.conftest import Prepared
from usertune.core.errors import UserError
from usertune.core.hashing import digest
from usertune.core.manifest import read_result, write_result
from usertune.runtime.provenance import UNKNOWN, current_provenance

PLUG_INS = ("usertune.inference.engines.transformers", "usertune.models.families.qwen3_vl")
# Predicts with the JSON argument; "stop" kills the process by SIGKILL at the beginning of that batch.
PREDICT = """
import json, os, signal, sys
from pathlib import Path
arguments = json.loads(sys.argv[1])
if arguments.pop("block_torch", False):
    sys.modules["torch"] = None
stop = arguments.pop("stop", None)
if stop is not None:
    from usertune.inference.engines.transformers import TransformersEngine
    original, calls = TransformersEngine._answer_batch, []
    def answer(self, batch, images):
        calls.append(len(batch.samples))
        if len(calls) == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, batch, images)
    TransformersEngine._answer_batch = answer
from tests.support.calls import predict
for key, value in arguments.items():
    if key.endswith("_manifests"):
        arguments[key] = [Path(item) for item in value]
    elif key.endswith(("base_manifest", "file", "folder", "root")):
        arguments[key] = Path(value)
predict(**arguments)
"""

Start = Callable[..., subprocess.Popen[str]]


def test_a_second_call_generates_nothing_and_needs_no_torch(
    prepared: Prepared, tmp_path: Path, run_python: Start
) -> None:
    arguments = prepared.predict_arguments(tmp_path, users=("1", "2"), batch_size=8)
    first = predict(**arguments)
    assert (first["generated"], first["reused"]) == (10, 0)
    assert [row["id"] for row in first["predictions"]] == [sample["id"] for sample in prepared.samples("1", "2")]
    (tmp_path / "predictions.json").unlink()
    process = run_python(PREDICT, {**arguments, "block_torch": True})
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    second = read_result(tmp_path / "predictions.json")
    assert (second["generated"], second["reused"]) == (0, 10)
    for key in ("predictions", "fingerprint", "lineage", "provenance", "answer_seconds", "timed_answers", "answered"):
        assert second[key] == first[key]
    # The second call loads nothing and generates nothing; the time that the answers took is still known.
    assert (second["loading_seconds"], second["generation_seconds"]) == (None, 0)
    assert second["timed_answers"] == 10
    # Each is rounded to hundredths.
    assert 0 < first["answer_seconds"] <= first["generation_seconds"] - first["loading_seconds"] + 0.02


def test_a_call_that_is_to_generate_nothing_says_what_is_missing(prepared: Prepared, tmp_path: Path) -> None:
    arguments = prepared.predict_arguments(tmp_path, batch_size=0)
    with pytest.raises(UserError, match="5 answers are missing that existed when jobs were planned; run again"):
        predict(**arguments)
    assert not (tmp_path / "predictions.json").exists()


def test_a_killed_job_repeats_at_most_one_batch(prepared: Prepared, tmp_path: Path, run_python: Start) -> None:
    undisturbed = predict(**prepared.predict_arguments(tmp_path / "undisturbed"))
    arguments = prepared.predict_arguments(tmp_path / "killed")
    process = run_python(PREDICT, {**arguments, "stop": 3})
    process.communicate(timeout=300)
    assert process.returncode == -9
    assert not arguments["predictions_file"].exists()
    again = predict(**arguments)
    # Two batches of two were done; only the current batch is left.
    assert (again["generated"], again["reused"]) == (1, 4)
    assert again["predictions"] == undisturbed["predictions"]


def _prepare_copy(prepared: Prepared, folder: Path, **users: list[str]) -> Prepared:
    """Return the study with some users' raw lines replaced."""
    copy = replace(prepared, root=folder / "dataset", folder=folder / "data")
    shutil.copytree(prepared.root, copy.root)
    shutil.copytree(prepared.folder, copy.folder)
    for name, lines in users.items():
        (copy.root / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        user = name.removeprefix("user_")
        prepare_one(copy.root, user, copy.folder / f"{name}.jsonl", copy.manifest(user))
    return copy


def test_one_edited_sample_generates_exactly_one(prepared: Prepared, tmp_path: Path) -> None:
    first = predict(**prepared.predict_arguments(tmp_path))
    lines = (prepared.root / "user_1.jsonl").read_text().splitlines()
    edited = json.loads(lines[2])
    edited["messages"][0]["content"][1]["text"] += " Please."
    lines[2] = json.dumps(edited)
    copy = _prepare_copy(prepared, tmp_path / "modified", user_1=lines)
    second = predict(**copy.predict_arguments(tmp_path))
    assert (second["generated"], second["reused"]) == (1, 4)
    assert second["timed_answers"] == 5
    assert second["answer_seconds"] > second["generation_seconds"] - second["loading_seconds"]
    assert second["answered"][0] == first["answered"][0]
    kept = [row for number, row in enumerate(second["predictions"]) if number != 2]
    assert kept == [row for number, row in enumerate(first["predictions"]) if number != 2]


def test_users_who_ask_the_same_each_get_their_answer(prepared: Prepared, tmp_path: Path) -> None:
    lines = (prepared.root / "user_1.jsonl").read_text().splitlines()
    copy = _prepare_copy(prepared, tmp_path / "same", user_2=lines)
    result = predict(**copy.predict_arguments(tmp_path, users=("1", "2"), batch_size=8))
    texts = [row["text"] for row in result["predictions"]]
    assert texts[:5] == texts[5:]
    assert result["timed_answers"] == 10
    assert [row["user"] for row in result["predictions"]] == ["1"] * 5 + ["2"] * 5


def test_weights_of_another_base_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    write_result(tmp_path / "manifest.json", {"format": 2, "inputs": {"base_model": "0" * 64}, "output": "1" * 64})
    arguments = {**prepared.predict_arguments(tmp_path), "train_manifest": tmp_path / "manifest.json"}
    with pytest.raises(UserError, match="trained on another base model"):
        predict(**arguments)


def test_the_result_says_whose_answers_it_holds_and_what_made_them(prepared: Prepared, tmp_path: Path) -> None:
    arguments = prepared.predict_arguments(tmp_path, users=("1", "2"))
    with without_a_model():
        result = predict(**arguments)
    base = read_result(prepared.base_manifest)["output"]
    users = {user: read_result(prepared.manifest(user))["fingerprint"] for user in ("1", "2")}
    assert read_result(arguments["predictions_file"]) == result
    assert (result["step"], result["experiment"], result["users"]) == ("predict", "vanilla", ["1", "2"])
    assert result["lineage"] == {
        "base_model": base,
        "prepare": users,
        "train": None,
        "predict": result["fingerprint"],
    }
    assert result["provenance"] == {"train": [], "predict": [current_provenance("predict", plug_ins=PLUG_INS)]}


@pytest.mark.parametrize("changed", ["code", "package"])
def test_answers_made_with_other_code_or_packages_are_generated_again_if_the_study_says_so(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    arguments = prepared.predict_arguments(tmp_path)
    strict = {**arguments, "recipe": {**arguments["recipe"], "provenance": {"code": "of the plan", "versions": {}}}}

    def generated(**arguments: Any) -> tuple[int, int]:
        result = predict(**arguments)
        assert len(result["predictions"]) == 5
        return result["generated"], len(result["provenance"]["predict"])

    with without_a_model():
        assert generated(**strict) == (5, 1)
        assert generated(**strict) == (0, 1)
        if changed == "code":
            monkeypatch.setattr("usertune.runtime.provenance.code_version", lambda step, _plug_ins: f"new {step}")
        else:
            monkeypatch.setattr("usertune.runtime.provenance.installed_versions", lambda: {"python": "9"})
        assert generated(**arguments) == (0, 1)
        assert generated(**strict) == (5, 1)
        assert generated(**strict) == (0, 1)
    now = read_result(arguments["predictions_file"])["provenance"]["predict"]
    assert now == [current_provenance("predict", plug_ins=PLUG_INS)]


def test_answers_whose_record_is_lost_still_count_but_not_as_made_today(prepared: Prepared, tmp_path: Path) -> None:
    arguments = prepared.predict_arguments(tmp_path)
    with without_a_model():
        predict(**arguments)
        (record,) = (tmp_path / "store").glob("*/provenance/*.json")
        record.unlink()
        again = predict(**arguments)
        assert (again["generated"], again["provenance"]["predict"]) == (0, [UNKNOWN])
        strict = {**arguments, "recipe": {**arguments["recipe"], "provenance": {}}}
        assert predict(**strict)["generated"] == 5


def test_samples_that_ask_the_same_share_an_answer_and_its_time(prepared: Prepared, tmp_path: Path) -> None:
    lines = (prepared.root / "user_1.jsonl").read_text().splitlines()
    twice = [json.dumps({**json.loads(line), "id": f"{number}"}) for number, line in enumerate([*lines, *lines])]
    copy = _prepare_copy(prepared, tmp_path / "twice", user_1=twice)
    with without_a_model():
        result = predict(**copy.predict_arguments(tmp_path))
    assert (len(result["predictions"]), result["generated"], result["timed_answers"]) == (10, 5, 5)
    assert result["answer_seconds"] == 5 * SECONDS


def test_answers_of_an_older_release_have_no_time(prepared: Prepared, tmp_path: Path) -> None:
    arguments = prepared.predict_arguments(tmp_path)
    with without_a_model():
        predict(**arguments)
        for segment in (tmp_path / "store").glob("*/user_1/*.jsonl"):
            lines = [json.loads(line) for line in segment.read_text().splitlines()]
            old = [
                {key: line[key] for key in ("request", "text", "new_tokens", "stopped", "provenance")} for line in lines
            ]
            segment.write_text("".join(json.dumps({**line, "check": digest(line)[:16]}) + "\n" for line in old))
        again = predict(**arguments)
    assert (again["generated"], again["answer_seconds"], again["timed_answers"], again["answered"]) == (0, 0, 0, None)
