"""Predicting with the adapters of folds: each sample is answered once, by the model that was not trained on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import NO_LIMITS, predict, train
from tests.support.fold_training import TWO, train_on_folds
from tests.unit.conftest import BASE, Prepared
from tests.unit.inference.test_predict import PREDICT
from usertune.core.errors import UserError
from usertune.core.manifest import read_result, write_result
from usertune.data.folds import folds_of
from usertune.inference.engine import EngineSettings
from usertune.inference.engines.transformers import TransformersEngine
from usertune.inference.questions import questions_of

USERS = ("1", "2")
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def personal(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trainings on two folds of each of two users."""
    folder = tmp_path_factory.mktemp("checkpoints") / "personal"
    for user in USERS:
        train_on_folds(prepared, folder / f"users_{user}.json", [user], seed=int(user))
    return folder


def arguments_of(prepared: Prepared, out: Path, folder: Path, *names: str, **changes: Any) -> dict[str, Any]:
    weights = [folder / f"users_{name}.json" for name in names or USERS]
    found = prepared.predict_arguments(out, users=USERS)
    return {**found, "experiment": "personal", "train_manifest": None, "weights_manifests": weights, **changes}


def edited(folder: Path, to: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """Copy trainings on folds, and change the manifest of one."""
    shutil.copytree(folder, to)
    manifest = read_result(to / name)
    change(manifest)
    write_result(to / name, manifest)
    return to


def test_each_sample_is_answered_once_by_the_model_that_was_not_trained_on_it(
    prepared: Prepared, personal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []
    monkeypatch.setattr("usertune.runtime.job_record.count_model_load", lambda: loads.append(1))
    result = predict(**arguments_of(prepared, tmp_path, personal))
    assert len(loads) == 1
    assert result["generated"] == 10
    assert [row["id"] for row in result["predictions"]] == [sample["id"] for sample in prepared.samples(*USERS)]
    texts = {}
    for user in USERS:
        fold_of = folds_of(prepared.samples(user), TWO)
        manifest = read_result(personal / f"users_{user}.json")
        for fold in ("1", "2"):
            weights = personal / manifest["folds"][fold]["weights_folder"]
            engine = TransformersEngine(EngineSettings(BASE, "lora", weights, "float32", NO_LIMITS, prepared.root, 12))
            own = [sample for sample in prepared.samples(user) if fold_of[sample["id"]] == int(fold)]
            for batch in engine.answer(questions_of(own), 2):
                texts.update({question.sample["id"]: (f"{user}/{fold}", answer.text) for question, answer in batch})
    assert {row["id"]: (row["model"], row["text"]) for row in result["predictions"]} == texts
    assert result["adapter_effect"]["adapters"] == 4
    assert result["adapter_effect"]["largest_change"] > 0
    lineage = {user: read_result(personal / f"users_{user}.json")["fingerprint"] for user in USERS}
    assert (result["lineage"]["train"], result["lineage"]["train_folds"]) == (None, lineage)
    outputs = {f"personal {user}": read_result(personal / f"users_{user}.json")["output"] for user in USERS}
    assert result["inputs"]["weights"] == outputs


def test_a_second_call_generates_nothing_whatever_the_experiment_is_called(
    prepared: Prepared, personal: Path, tmp_path: Path, run_python: Start
) -> None:
    first = predict(**arguments_of(prepared, tmp_path, personal))
    again = arguments_of(
        prepared, tmp_path, personal, experiment="again", predictions_file=tmp_path / "again.json", block_torch=True
    )
    process = run_python(PREDICT, again)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    second = read_result(tmp_path / "again.json")
    assert (second["generated"], second["reused"]) == (0, 10)
    for key in ("predictions", "models", "store_folders", "provenance", "adapter_effect"):
        assert second[key] == first[key]


def test_other_weights_of_one_fold_answer_its_samples_again_and_no_others(
    prepared: Prepared, personal: Path, tmp_path: Path
) -> None:
    first = predict(**arguments_of(prepared, tmp_path, personal))
    other = tmp_path / "other"
    train_on_folds(prepared, other / "users_2.json", ["2"], seed=7)
    changed = read_result(other / "users_2.json")["folds"]["1"]

    def replace_fold(manifest: dict[str, Any]) -> None:
        manifest["folds"]["1"] = {**changed, "weights_folder": f"../other/{changed['weights_folder']}"}

    folder = edited(personal, tmp_path / "personal", "users_2.json", replace_fold)
    second = predict(**arguments_of(prepared, tmp_path, folder))
    of_fold = [row["id"] for row in first["predictions"] if row["model"] == "2/1"]
    assert 0 < second["generated"] == len(of_fold) < 5
    kept = [row for row in second["predictions"] if row["id"] not in of_fold]
    assert kept == [row for row in first["predictions"] if row["id"] not in of_fold]


def test_a_training_on_all_users_answers_each_of_them(prepared: Prepared, tmp_path: Path) -> None:
    train_on_folds(prepared, tmp_path / "pooled/users_1-2.json", USERS)
    result = predict(**arguments_of(prepared, tmp_path, tmp_path / "pooled", "1-2"))
    fold_of = {user: folds_of(prepared.samples(user), TWO) for user in USERS}
    assert {row["id"]: row["model"] for row in result["predictions"]} == {
        sample: f"1-2/{fold}" for user in USERS for sample, fold in fold_of[user].items()
    }


def _cut_otherwise(manifest: dict[str, Any]) -> None:
    manifest["recipe"]["folds"]["seed"] = 1


def _of_other_samples(manifest: dict[str, Any]) -> None:
    manifest["inputs"]["samples"]["2"] = "0" * 64


def _with_another_record(manifest: dict[str, Any]) -> None:
    manifest["folds"]["2"]["held_out"]["2"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cut_otherwise, r"users_2.json: fold 1 of user 2 is made of other samples now than in training"),
        (_of_other_samples, r"users_2.json: trained on other samples of user 2 than those of .*user_2.manifest.json"),
        (_with_another_record, r"users_2.json: fold 2 of user 2 is made of other samples"),
    ],
)
def test_folds_that_are_not_those_of_the_training_are_refused_before_anything_is_generated(
    prepared: Prepared, personal: Path, tmp_path: Path, change: Any, message: str
) -> None:
    folder = edited(personal, tmp_path / "personal", "users_2.json", change)
    with pytest.raises(UserError, match=message):
        predict(**arguments_of(prepared, tmp_path, folder))
    assert not (tmp_path / "store").exists()


def test_a_user_without_weights_is_named(prepared: Prepared, personal: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights for user 2 are given"):
        predict(**arguments_of(prepared, tmp_path, personal, "1"))


def test_adapters_answer_on_the_weights_that_they_started_from(prepared: Prepared, tmp_path: Path) -> None:
    recipe = prepared.train_recipe("full", epochs=1)
    full = tmp_path / "full/manifest.json"
    train(**{**prepared.train_arguments(tmp_path / "full", recipe), "experiment": "full"})
    train_on_folds(prepared, tmp_path / "personal/users_1-2.json", USERS, start=full)
    arguments = arguments_of(prepared, tmp_path, tmp_path / "personal", "1-2")
    with pytest.raises(UserError, match=r"users_1-2.json: trained from the weights of another training \(start_from\)"):
        predict(**arguments)
    result = predict(**{**arguments, "start_manifest": full})
    assert result["generated"] == 10
    assert result["inputs"]["start"] == read_result(full)["output"]
    assert {identity["start"] for identity in result["models"].values()} == {result["inputs"]["start"]}
    started, (own,) = read_result(full)["provenance"], read_result(tmp_path / "personal/users_1-2.json")["provenance"]
    assert result["provenance"]["train"] == [*started, own]


def test_a_killed_job_repeats_at_most_one_batch(
    prepared: Prepared, personal: Path, tmp_path: Path, run_python: Start
) -> None:
    undisturbed = predict(**arguments_of(prepared, tmp_path / "undisturbed", personal))
    arguments = arguments_of(prepared, tmp_path / "killed", personal)
    process = run_python(PREDICT, {**arguments, "stop": 4})
    process.communicate(timeout=300)
    assert process.returncode == -9
    assert not arguments["predictions_file"].exists()
    stored = sum(len(path.read_text().splitlines()) for path in (tmp_path / "killed/store").glob("*/user_*/*.jsonl"))
    again = predict(**arguments)
    # Three batches of at most two were stored.
    assert 3 <= stored <= 6
    assert (again["generated"], again["reused"]) == (10 - stored, stored)
    assert again["predictions"] == undisturbed["predictions"]
