"""Trainings on folds: what each of them sees, that they share a loaded model, and that only changes are repeated."""

from __future__ import annotations

import csv
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.calls import train
from tests.support.fine_tuning import fine_tuning, same_weights, train_and_read
from tests.support.folds import TWO, folds_recipe, train_on_folds, with_samples
from tests.unit.conftest import BASE, Prepared
from usertune.core.errors import UserError
from usertune.core.hashing import digest
from usertune.core.manifest import read_manifest, write_result
from usertune.data.folds import folds_of
from usertune.data.samples import request_digest
from usertune.models import loading
from usertune.models.loading import load_start
from usertune.models.reused import ReusedModel
from usertune.training import finetune
from usertune.training.inputs import FineTuning
from usertune.training.train_folds import parts_of


class Loads:
    """Counts the models that are loaded, and the trainings that are run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models = self.trainings = 0
        load, train = loading.load_model, finetune._fine_tune

        def load_model(*arguments: Any, **named: Any) -> Any:
            self.models += 1
            return load(*arguments, **named)

        def fine_tune(*arguments: Any) -> Any:
            self.trainings += 1
            return train(*arguments)

        monkeypatch.setattr(loading, "load_model", load_model)
        monkeypatch.setattr(finetune, "_fine_tune", fine_tune)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    return Loads(monkeypatch)


def weights_of(out: Path, manifest: dict[str, Any], fold: str) -> dict[str, torch.Tensor]:
    (file,) = (out / manifest["folds"][fold]["weights_folder"]).glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_second_training_on_a_reused_model_is_that_on_a_fresh_one_to_the_bit(
    prepared: Prepared, tmp_path: Path, checkpointing: bool
) -> None:
    def run(reused: ReusedModel, seed: int) -> FineTuning:
        own = replace(fine_tuning(prepared, epochs=1, seed=seed), reused=reused, validation_samples=[])
        return replace(own, execution=own.execution.model_copy(update={"gradient_checkpointing": checkpointing}))

    def load() -> Any:
        return load_start(BASE, None, "float32")

    model = load()
    reused = ReusedModel(lambda: model)
    first = train_and_read(run(reused, 0), tmp_path / "first")
    before = {name: value.clone() for name, value in load().state_dict().items()}
    assert same_weights(before, reused.take().state_dict())
    reused.give_back(loading.prepare_for_training(model, folds_recipe(prepared).weights))  # type: ignore[arg-type]
    second = train_and_read(run(reused, 1), tmp_path / "second")
    fresh = train_and_read(run(ReusedModel(load), 1), tmp_path / "fresh")
    assert second[0] == fresh[0]
    assert same_weights(second[1], fresh[1])
    assert not same_weights(first[1], second[1])


def test_one_load_serves_all_folds_of_all_users(prepared: Prepared, tmp_path: Path, loads: Loads) -> None:
    users = [[prepared.manifest("1")], [prepared.manifest("2")]]
    first, second = train_on_folds(prepared, tmp_path, users)
    assert (loads.models, loads.trainings) == (1, 4)
    assert first["users"] == ["1"]
    assert first["output"] == digest({fold: first["folds"][fold]["weights_fingerprint"] for fold in ("1", "2")})
    assert first["inputs"] == {
        "base_model": read_manifest(prepared.base_manifest)["output"],
        "samples": {"1": read_manifest(prepared.manifest("1"))["output"]},
    }
    assert read_manifest(tmp_path / "users_2.json") == second
    folds = folds_of(prepared.samples("1"), TWO)
    for fold, record in first["folds"].items():
        tested = sum(number == int(fold) for number in folds.values())
        assert (record["train_samples"], record["test_samples"]) == (len(folds) - tested, tested)
    with (tmp_path / "users_1.csv").open() as table:
        assert {row["fold"] for row in csv.DictReader(table)} == {"1", "2"}
    assert not same_weights(weights_of(tmp_path, first, "1"), weights_of(tmp_path, first, "2"))

    # A repeated job trains nothing and writes the same bytes.
    written = {path: path.read_bytes() for path in tmp_path.glob("users_*")}
    train_on_folds(prepared, tmp_path, users)
    assert (loads.models, loads.trainings) == (1, 4)
    assert written == {path: path.read_bytes() for path in tmp_path.glob("users_*")}

    # Each fold alone, in a job of its own, has the same weights.
    again, *_ = train_on_folds(prepared, tmp_path / "again", users[1:])
    for fold in ("1", "2"):
        assert same_weights(weights_of(tmp_path / "again", again, fold), weights_of(tmp_path, second, fold))


def test_an_edited_sample_repeats_only_the_folds_that_are_trained_on_it(
    prepared: Prepared, tmp_path: Path, loads: Loads
) -> None:
    train_on_folds(prepared, tmp_path, [[prepared.manifest("1")], [prepared.manifest("2")]])
    before = (tmp_path / "users_2.json").read_bytes()
    samples = prepared.samples("1")
    samples[0] = deepcopy(samples[0])
    samples[0]["messages"][-1]["content"] = [{"type": "text", "text": "elsewhere"}]
    edited = with_samples(prepared, tmp_path / "data", "1", samples)
    changed, _ = train_on_folds(prepared, tmp_path, [[edited], [prepared.manifest("2")]])
    assert loads.trainings == 4 + TWO.count - 1
    assert (tmp_path / "users_2.json").read_bytes() == before
    assert changed["inputs"]["samples"]["1"] == read_manifest(edited)["output"]


@pytest.mark.parametrize("scope", ["personal", "pooled"])
def test_a_planted_copy_of_a_test_sample_is_not_trained_on(prepared: Prepared, scope: str) -> None:
    recipe, base = folds_recipe(prepared, scope=scope), read_manifest(prepared.base_manifest)
    users = [prepared.samples("1"), prepared.samples("2")] if scope == "pooled" else [prepared.samples("1")]
    before = parts_of(recipe, base, None, users)
    planted = deepcopy(users[0][0])
    # In an episode of the other fold; of pooled users, among the samples of the other user.
    other = next(s for s in users[-1] if folds_of(users[-1], TWO)[s["id"]] != folds_of(users[0], TWO)[planted["id"]])
    planted |= {"id": "planted", "episode": other["episode"], "user": other["user"]}
    users[-1] = [*users[-1], planted]
    after = parts_of(recipe, base, None, users)
    place = folds_of(users[0], TWO)[users[0][0]["id"]] - 1
    assert after[place].copies_left_out == before[place].copies_left_out + 1
    assert after[place].fingerprint == before[place].fingerprint
    assert request_digest(planted) not in {request_digest(sample) for sample in after[place].train}
    for part in after:
        tested = {(sample["user"], sample["episode"]) for sample in part.test}
        assert not tested & {(sample["user"], sample["episode"]) for sample in part.train}


def test_pooled_trains_each_fold_of_all_users_together(prepared: Prepared, tmp_path: Path, loads: Loads) -> None:
    both = [prepared.manifest("1"), prepared.manifest("2")]
    (pooled,) = train_on_folds(prepared, tmp_path, [both], folds_recipe(prepared, scope="pooled"))
    assert (loads.models, loads.trainings) == (1, 2)
    assert (pooled["users"], list(pooled["folds"])) == (["1", "2"], ["1", "2"])
    assert (tmp_path / "users_1-2.json").exists()
    parts = [parts_of(folds_recipe(prepared), {"output": ""}, None, [prepared.samples(user)]) for user in ("1", "2")]
    for number, record in enumerate(pooled["folds"].values()):
        assert record["train_samples"] == sum(len(own[number].train) for own in parts)


def test_samples_limits_the_samples_of_each_user_and_smaller_choices_are_nested(prepared: Prepared) -> None:
    users = [prepared.samples("1"), prepared.samples("2")]
    base = read_manifest(prepared.base_manifest)
    ids = []
    for number in (1, 2, None):
        recipe = folds_recipe(prepared, scope="pooled", samples=number)
        parts = parts_of(recipe, base, None, users)
        ids.append([{(sample["user"], sample["id"]) for sample in part.train} for part in parts])
    for one, two, everything in zip(*ids, strict=True):
        assert one < two <= everything
        for user in ("1", "2"):
            found, all_of_user = ({item for item in items if item[0] == user} for items in (two, everything))
            assert len(found) == min(2, len(all_of_user))
            assert len({item for item in one if item[0] == user}) == 1


def test_weights_are_trained_on_those_that_they_start_from(
    prepared: Prepared, tmp_path: Path, loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = {}
    for mode in ("full", "lora"):
        out = tmp_path / mode
        arguments = prepared.train_arguments(out, prepared.train_recipe(mode, epochs=1))
        train(**{**arguments, "experiment": mode})
        starts[mode] = out / "manifest.json"
    loads.models = 0
    found = {}
    for mode, start in {**starts, None: None}.items():
        recipe = folds_recipe(prepared, **({"start": mode} if mode else {}))
        (found[mode],) = train_on_folds(prepared, tmp_path / f"from_{mode}", [[prepared.manifest("1")]], recipe, start)
        assert found[mode]["inputs"].get("start") == (read_manifest(start)["output"] if start else None)
    assert loads.models == 3
    assert len({manifest["folds"]["1"]["weights_fingerprint"] for manifest in found.values()}) == 3
    losses = {mode: (tmp_path / f"from_{mode}" / "users_1.csv").read_text().splitlines()[1] for mode in found}
    # The trained weights know more than the base model from the first step on.
    assert float(losses["full"].split(",")[4]) != float(losses[None].split(",")[4])

    own = read_manifest(starts["full"])
    write_result(starts["full"], {**own, "inputs": {**own["inputs"], "base_model": "another"}})
    with pytest.raises(UserError, match=r"full/manifest\.json: trained on another base model"):
        train_on_folds(prepared, tmp_path, [[prepared.manifest("1")]], folds_recipe(prepared), starts["full"])


def test_full_weights_of_folds_are_loaded_again_for_each(prepared: Prepared, tmp_path: Path, loads: Loads) -> None:
    (found,) = train_on_folds(prepared, tmp_path, [[prepared.manifest("1")]], folds_recipe(prepared, "full"))
    assert (loads.models, loads.trainings) == (2, 2)
    assert not same_weights(weights_of(tmp_path, found, "1"), weights_of(tmp_path, found, "2"))
    assert weights_of(tmp_path, found, "1").keys() == load_file(BASE / "model.safetensors").keys()


def test_too_few_episodes_are_reported_before_anything_is_loaded(
    prepared: Prepared, tmp_path: Path, loads: Loads
) -> None:
    recipe = folds_recipe(prepared, folds={"count": 99, "by": "episode", "seed": 0})
    with pytest.raises(UserError, match=r"^user 1 has .* too few for 99 folds"):
        train_on_folds(prepared, tmp_path, [[prepared.manifest("1")]], recipe)
    recipe = folds_recipe(prepared, training={"warmup_steps": 99})
    with pytest.raises(UserError, match=r"training\.warmup_steps of experiment personal, users 1, fold 1 is 99"):
        train_on_folds(prepared, tmp_path, [[prepared.manifest("1")]], recipe)
    assert loads.models == 0
