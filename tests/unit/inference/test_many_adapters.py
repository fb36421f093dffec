"""Many trained weights on one base model answer as each of them alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from tests.support.calls import NO_LIMITS
from tests.support.fine_tuning import fine_tuning, measure
from tests.unit.conftest import BASE, LORA, Prepared
from usertune.core.errors import UserError
from usertune.inference.engine import EngineSettings
from usertune.inference.engines.transformers import TransformersEngine
from usertune.inference.merge import merge_adapter
from usertune.inference.questions import Question
from usertune.models.loading import load_adapter, load_for_prediction, load_model, load_start
from usertune.models.one_at_a_time import AdapterSlot, OneAtATime
from usertune.models.recipe import StartWeights

# Two with the same settings, then one of another rank, then the settings of the first ones again.
ADAPTERS: dict[str, dict[str, Any]] = {
    "1/1": {"seed": 1},
    "1/2": {"seed": 2},
    "2/1": {"seed": 3, "lora": {**LORA, "rank": 8}},
    "2/2": {"seed": 4},
}


@pytest.fixture(scope="module")
def adapters(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Really trained adapters that give different answers."""
    found = {}
    for key, training in ADAPTERS.items():
        folder = tmp_path_factory.mktemp("adapter")
        measure(fine_tuning(prepared, "lora", learning_rate=1e-2, **training), folder)
        found[key] = folder / "weights"
    return found


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each time a model is loaded."""
    found: list[int] = []
    monkeypatch.setattr("usertune.runtime.job_record.count_model_load", lambda: found.append(1))
    return found


def settings_of(prepared: Prepared, **changes: Any) -> EngineSettings:
    return replace(EngineSettings(BASE, "lora", None, "float32", NO_LIMITS, prepared.root, 24), **changes)


Ids = dict[tuple[str, str], list[int]]


class Recorded(TransformersEngine):
    """Keeps the tokens of all answers."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self.rows: list[list[int]] = []

    def _prediction(self, ids: list[int], prompt: list[int]) -> Any:
        prediction = super()._prediction(ids, prompt)
        self.rows.append(ids[: prediction.new_tokens])
        return prediction


def tokens(settings: EngineSettings, questions: list[Question], batch_size: int = 3) -> Ids:
    """Return the tokens of the answers by model and sample."""
    engine = Recorded(settings)
    order = [question for batch in engine.answer(questions, batch_size) for question, _ in batch]
    assert len(order) == len(engine.rows) == len(questions)
    return {(question.model, question.sample["id"]): row for question, row in zip(order, engine.rows, strict=True)}


def interleaved(prepared: Prepared, keys: Mapping[str, Path]) -> list[Question]:
    """Return a question to every model about each of some samples."""
    return [Question(sample, key) for sample in prepared.samples("1")[:4] for key in keys]


def alone(settings: EngineSettings, questions: list[Question]) -> Ids:
    """Return the tokens of the answers if each model is loaded by itself."""
    found: Ids = {}
    for key, folder in settings.adapters.items():
        own = [question for question in questions if question.model == key]
        found |= tokens(replace(settings, adapters={}, weights_folder=folder), own)
    return found


def test_adapters_on_one_base_give_the_tokens_of_each_alone(
    prepared: Prepared, adapters: dict[str, Path], loads: list[int]
) -> None:
    questions = interleaved(prepared, adapters)
    settings = settings_of(prepared, adapters=adapters)
    together = tokens(settings, questions)
    assert len(loads) == 1
    assert len(together) == len(questions)
    assert together == alone(settings, questions)
    of_one_sample = {key: together[key, questions[0].sample["id"]] for key in adapters}
    assert len({tuple(row) for row in of_one_sample.values()}) > 1, "the adapters give different answers"


def test_a_swapped_adapter_is_to_the_bit_that_of_a_model_loaded_with_it(adapters: dict[str, Path]) -> None:
    models = OneAtATime(BASE, None, "lora", adapters, "bfloat16")
    for key in (*adapters, "1/1"):
        expected = dict(load_for_prediction(BASE, "lora", adapters[key], "bfloat16").named_parameters())
        found = dict(models.use(key).named_parameters())
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value), name


def test_each_adapter_is_shown_to_change_the_model(prepared: Prepared, adapters: dict[str, Path]) -> None:
    questions = interleaved(prepared, adapters)
    effects = TransformersEngine(settings_of(prepared, adapters=adapters)).effects(questions)
    assert effects.keys() == adapters.keys()
    assert {effect["probes"] for effect in effects.values()} == {1}
    alone = {
        key: TransformersEngine(settings_of(prepared, weights_folder=folder)).effects([Question(questions[0].sample)])
        for key, folder in adapters.items()
    }
    for key, effect in effects.items():
        assert effect["largest_change"] == pytest.approx(alone[key][""]["largest_change"], rel=1e-4)
    assert len({effect["largest_change"] for effect in effects.values()}) == len(adapters)


def _changed(folder: Path, to: Path, **keys: Any) -> Path:
    """Copy an adapter with other settings."""
    shutil.copytree(folder, to)
    config = json.loads((to / "adapter_config.json").read_text())
    (to / "adapter_config.json").write_text(json.dumps({**config, **keys}))
    return to


def test_one_adapter_without_effect_among_many_is_refused(
    prepared: Prepared, adapters: dict[str, Path], tmp_path: Path
) -> None:
    dead = _changed(adapters["1/2"], tmp_path / "dead", lora_alpha=0)
    settings = settings_of(prepared, adapters={**adapters, "2/2": dead})
    with pytest.raises(UserError, match=rf"{dead}: the adapter is not zero, but changes no"):
        TransformersEngine(settings).effects(interleaved(prepared, adapters))


def test_an_adapter_that_does_not_fit_is_refused_and_spoils_no_other(
    prepared: Prepared, adapters: dict[str, Path], tmp_path: Path
) -> None:
    other = _changed(adapters["2/1"], tmp_path / "other", r=4)
    slot = AdapterSlot(load_model(BASE, "float32").eval())
    first = {name: value.clone() for name, value in slot.put(adapters["1/1"]).named_parameters()}
    with pytest.raises(UserError, match=rf"{other}: these are not the weights of this model"):
        slot.put(other)
    again = dict(slot.put(adapters["1/1"]).named_parameters())
    assert again.keys() == first.keys()
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_memory_holds_one_adapter_however_many_there_are(adapters: dict[str, Path]) -> None:
    slot = AdapterSlot(load_model(BASE, "float32").eval())
    sizes = {}
    for key in [*adapters, *reversed(adapters)]:
        model = slot.put(adapters[key])
        adapted = {name: value.numel() for name, value in model.named_parameters() if "lora_" in name}
        assert sizes.setdefault(key, adapted) == adapted
    assert sizes["1/1"].keys() == sizes["2/1"].keys()
    assert 2 * sum(sizes["1/1"].values()) == sum(sizes["2/1"].values()), "twice the rank"


@pytest.fixture(scope="module")
def merged(prepared: Prepared, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sum of the base model and the first adapter, as a complete model."""
    folder = tmp_path_factory.mktemp("merged")
    merge_adapter(settings_of(prepared, weights_folder=adapters["1/1"]), prepared.samples("1"), folder)
    return folder


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_adapters_are_put_on_the_weights_that_they_started_from(
    prepared: Prepared, adapters: dict[str, Path], merged: Path, loads: list[int], mode: Any
) -> None:
    own = {key: adapters[key] for key in ("1/2", "2/1")}
    questions = interleaved(prepared, own)
    start = StartWeights(mode=mode, folder=adapters["1/1"] if mode == "lora" else merged)
    found = tokens(settings_of(prepared, adapters=own, start=start), questions)
    assert len(loads) == 1
    by_hand = settings_of(prepared, base_folder=merged, adapters=own)
    assert found == tokens(by_hand, questions)
    assert found == alone(by_hand, questions)
    assert found != tokens(settings_of(prepared, adapters=own), questions)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_to_start_from_is_added_in_float32_and_rounded_once(adapters: dict[str, Path], dtype: str) -> None:
    rounded = load_start(BASE, StartWeights(mode="lora", folder=adapters["1/1"]), dtype)
    found, plain = dict(rounded.named_parameters()), load_model(BASE, dtype)
    assert list(found) == [name for name, _ in plain.named_parameters()]
    assert {name: value.dtype for name, value in rounded.named_buffers()} == {
        name: value.dtype for name, value in plain.named_buffers()
    }
    assert rounded.lm_head.weight is rounded.get_input_embeddings().weight
    expected = {name: value.clone() for name, value in plain.named_parameters()}
    adapted: Any = load_adapter(plain, adapters["1/1"])
    layers = {
        name: module for name, module in adapted.base_model.model.named_modules() if isinstance(module, LoraLayer)
    }
    assert len(layers) > 10
    for name, layer in layers.items():
        weight: Any = expected[f"{name}.weight"]
        expected[f"{name}.weight"] = (weight.float() + layer.get_delta_weight("default").float()).to(weight.dtype)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_an_adapter_of_zeros_to_start_from_leaves_the_base_model(adapters: dict[str, Path], tmp_path: Path) -> None:
    zero = _changed(adapters["1/1"], tmp_path / "zero", lora_alpha=0)
    plain = dict(load_model(BASE, "bfloat16").named_parameters())
    started = load_start(BASE, StartWeights(mode="lora", folder=zero), "bfloat16")
    assert all(torch.equal(value, plain[name]) for name, value in started.named_parameters())


@pytest.fixture
def complete_models(prepared: Prepared, tmp_path: Path) -> dict[str, Path]:
    """Two fully trained models."""
    found = {}
    for seed in (1, 2):
        measure(fine_tuning(prepared, "full", learning_rate=1e-3, seed=seed, epochs=1), tmp_path / str(seed))
        found[f"1/{seed}"] = tmp_path / str(seed) / "weights"
    return found


def test_complete_models_answer_one_after_another(
    prepared: Prepared, complete_models: dict[str, Path], loads: list[int]
) -> None:
    questions = interleaved(prepared, complete_models)
    settings = settings_of(prepared, mode="full", adapters=complete_models)
    together = tokens(settings, questions)
    assert len(loads) == 2
    assert together == alone(settings, questions)
    assert TransformersEngine(settings).effects(questions) == {}
    unchanged = {**complete_models, "1/2": BASE}
    effects = TransformersEngine(replace(settings, adapters=unchanged)).effects(questions)
    assert effects == {"1/2": {"probes": 0, "largest_change": 0.0}}
