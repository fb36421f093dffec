"""Training and answers of every family, on a tiny random model with the real tokenizer of Qwen."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.support.calls import NO_LIMITS, predict, train
from tests.support.tiny_families import THINKING, conversations_of, describe
from tests.unit.conftest import EXECUTION, FROZEN, Prepared
from usertune.inference.engine import EngineSettings
from usertune.inference.engines.transformers import TransformersEngine
from usertune.inference.greedy import GREEDY
from usertune.inference.questions import questions_of
from usertune.inference.roomy_cache import ROOM, RoomyLayer, roomy_cache
from usertune.models.conversation import Collator
from usertune.models.families.catalogue import family_of, get_family
from usertune.models.image_memory import ImageMemory
from usertune.models.loading import load_model, prepare_for_training
from usertune.models.recipe import FreezeSettings, LoraSettings
from usertune.models.tensor_files import shapes_in
from usertune.training.finetune import fine_tune
from usertune.training.fused_layers import fuse_layers
from usertune.training.inputs import FineTuning
from usertune.training.last_layer import LastLayer
from usertune.training.recipe import Execution, TrainRecipe
from usertune.training.trainer import answer_loss_sum


def _recipe(prepared: Prepared, base: Path, mode: str, **training: Any) -> dict[str, Any]:
    more = {"thinking": THINKING[base.name]} if base.name in THINKING else {}
    return {**prepared.train_recipe(mode, **training), **more}


def _batch(base: Path, prepared: Prepared) -> dict[str, Any]:
    conversations = conversations_of(base)
    pairs = [(sample, conversations.conversation(sample)) for sample in prepared.samples("11")]
    return Collator(conversations, prepared.root).training_batch(pairs)


def test_the_loss_of_a_training_step_is_that_of_transformers(base: Path, prepared: Prepared, tmp_path: Path) -> None:
    batch = _batch(base, prepared)
    assert (batch["attention_mask"] == 0).any(), "some samples are padded"
    model = load_model(base, "float32").eval()
    with torch.no_grad():
        expected = float(model(**batch).loss)
        assert float(answer_loss_sum(model, batch)) == pytest.approx(
            expected * int((batch["labels"][:, 1:] != -100).sum()), rel=1e-5
        )
    describe(base, tmp_path / "base.json")
    arguments = prepared.train_arguments(tmp_path / "out", _recipe(prepared, base, "lora", epochs=2, batch_size=6))
    arguments |= {"base_manifest": tmp_path / "base.json", "execution": {**EXECUTION, "micro_batch_size": 3}}
    (tmp_path / "out").mkdir()
    manifest = train(**arguments)
    first, _ = [row for row in csv.DictReader((tmp_path / "out/log.csv").open()) if row["split"] == "train"]
    assert float(first["loss"]) == pytest.approx(expected, rel=1e-4)
    assert [way["patch_embedding"] for way in manifest["computed_with"]] == ["linear"]
    recipe: dict[str, Any] = {"step": "predict", "max_new_tokens": 4, "pixels": {}, "dtype": "float32"}
    recipe |= {"thinking": THINKING[base.name]} if base.name in THINKING else {}
    predicted = prepared.predict_arguments(tmp_path) | {"base_manifest": tmp_path / "base.json", "recipe": recipe}
    found = predict(**predicted | {"experiment": "lora", "train_manifest": tmp_path / "out/manifest.json"})
    assert found["adapter_effect"]["largest_change"] > 0


class Pass(NamedTuple):
    """A loss, the gradients of all trained weights, and the names of the operations in between."""

    loss: float
    gradients: list[torch.Tensor]
    operations: set[str]


def _pass(model: Any, batch: Any, *last_layer: LastLayer) -> Pass:
    model.zero_grad()
    loss = answer_loss_sum(model, batch, *last_layer)
    seen: set[Any] = set()
    pending = [loss.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            pending += [before for before, _ in node.next_functions]
    names = {node.name() for node in seen}
    loss.backward()
    gradients = [value.grad for value in model.parameters() if value.requires_grad]
    return Pass(loss.item(), gradients, names)


def _assert_equal(found: Pass, expected: Pass, share: float) -> None:
    """Losses are equal, and the difference of each gradient is less than a share of it."""
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    for one, other in zip(found.gradients, expected.gradients, strict=True):
        assert 0 < float(other.norm()) * share > float((one - other).norm())


def test_a_last_layer_that_computes_positions_with_labels_alone_changes_nothing(base: Path, prepared: Prepared) -> None:
    batch, family = _batch(base, prepared), get_family(base.name)
    model = prepare_for_training(load_model(base, "float32"), FreezeSettings(vision=True, merger=True))
    rows: set[int] = set()
    last = model.get_submodule(f"model.{family.layers[0].name}")[-1]  # type: ignore[index]
    last.mlp.down_proj.register_forward_hook(lambda _, inputs, __: rows.add(inputs[0].shape[1]))
    expected = _pass(model, batch)
    _assert_equal(_pass(model, batch, LastLayer(model, family)), expected, 1e-5)
    assert len(rows) == 2, "the last layer computes all positions, then some"


@pytest.mark.parametrize(
    "weights",
    [LoraSettings(rank=4, alpha=8, dropout=0.0), FreezeSettings(vision=True, merger=True)],
    ids=["lora", "full"],
)
@pytest.mark.parametrize("checkpointing", [True, False])
def test_fused_layers_compute_what_transformers_computes(
    base: Path, prepared: Prepared, weights: LoraSettings | FreezeSettings, checkpointing: bool
) -> None:
    batch = _batch(base, prepared)
    model = prepare_for_training(load_model(base, "float32"), weights)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(0)
    for name, value in model.named_parameters():
        if "norm" in name or "lora_B" in name:
            # Those that were loaded are all alike, or have no effect.
            value.data += 0.05 * torch.randn_like(value)
    fused = {f"{function}Backward" for function in ("RmsNorm", "GatedProduct", "Rotation")}
    expected = _pass(model, batch)
    assert not expected.operations & fused
    fuse_layers(model, get_family(base.name))
    found = _pass(model, batch)
    assert found.operations >= fused
    # Linear attention with random weights: a change of its inputs in the last digit can change gradients so much.
    _assert_equal(found, expected, 1e-2)


@pytest.mark.parametrize("features", [True, False])
def test_kept_images_give_the_loss_and_the_answers_of_pixels(base: Path, prepared: Prepared, features: bool) -> None:
    conversations, samples = conversations_of(base), prepared.samples("11")
    pairs = [(sample, conversations.conversation(sample)) for sample in samples]
    prompts = [conversations.prompt(sample) for sample in samples]
    model = load_model(base, "float32").eval()
    memory = ImageMemory(family_of(base), model, 1 << 30, features)
    assert memory.features == features
    collator = Collator(conversations, prepared.root)
    asked = {"max_new_tokens": 4, "do_sample": False}
    with torch.no_grad():
        loss = float(answer_loss_sum(model, collator.training_batch(pairs)))
        answers = model.generate(**collator.prompt_batch(samples, prompts), **asked)
        for _ in range(2):
            batch = memory.complete(model, collator.training_batch(pairs, memory.grids))
            assert float(answer_loss_sum(model, batch)) == pytest.approx(loss, rel=1e-5)
            prompt = memory.complete(model, collator.prompt_batch(samples, prompts, memory.grids))
            assert torch.equal(model.generate(**prompt, **asked), answers)
    assert len(memory) == len({image["sha256"] for sample in samples for image in sample["images"]})


def test_a_batch_gives_the_answers_of_single_samples(base: Path, prepared: Prepared) -> None:
    settings = EngineSettings(
        base, "vanilla", None, "float32", NO_LIMITS, prepared.root, 8, thinking=THINKING.get(base.name)
    )
    engine = TransformersEngine(settings)
    samples = prepared.samples("1", "2")
    samples[0]["messages"][-2]["content"][-1]["text"] += " Think of its colour first, then of its shape." * 3

    def answers(batch_size: int) -> dict[str, str]:
        batches = engine.answer(questions_of(samples), batch_size)
        return {question.sample["id"]: prediction.text for batch in batches for question, prediction in batch}

    single = answers(1)
    assert len(set(single.values())) > 1, "the answers depend on the samples"
    assert answers(4) == single


def test_the_cache_with_room_gives_the_answers_of_that_of_transformers(base: Path, prepared: Prepared) -> None:
    conversations, samples = conversations_of(base), prepared.samples("11")
    prompts = [conversations.prompt(sample) for sample in samples]
    batch = Collator(conversations, prepared.root).prompt_batch(samples, prompts)
    model = load_model(base, "float32").eval()
    asked = {**GREEDY, "max_new_tokens": ROOM + 8, "eos_token_id": -1, "pad_token_id": conversations.padding_id}
    with torch.inference_mode():
        cache = roomy_cache(model)
        found = model.generate(**batch, **asked, past_key_values=cache)
        assert torch.equal(found, model.generate(**batch, **asked))
    assert any(isinstance(layer, RoomyLayer) for layer in cache.layers)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_what_training_saves_has_the_names_of_the_base_and_is_resumed_exactly(
    base: Path, prepared: Prepared, tmp_path: Path, mode: str
) -> None:
    # Two epochs of two steps each.
    recipe = _recipe(prepared, base, mode, epochs=2, batch_size=4)
    if mode == "full":
        recipe["training"]["freeze"] = {**FROZEN, "vision": False}
    run = FineTuning(
        recipe=TrainRecipe.model_validate(recipe),
        execution=Execution.model_validate({**EXECUTION, "save_every_steps": 1}),
        base_folder=base,
        dataset_root=prepared.root,
        train_samples=prepared.samples("11"),
        validation_samples=(),
    )
    work, weights, again = (tmp_path / name for name in ("work", "weights", "again"))
    fine_tune(run, work, weights, tmp_path / "log.csv")
    saved, checkpoint = shapes_in(weights), shapes_in(work / "checkpoint-3")
    if mode == "full":
        assert saved == shapes_in(base)
        tied = {"lm_head.weight"}
        assert {name: checkpoint[name] for name in checkpoint if name not in tied} == shapes_in(base)
        assert "fusion_config" not in json.loads((weights / "config.json").read_text())
        load_model(weights, "float32")
    else:
        assert saved == checkpoint
        assert all(name.startswith("base_model.model.model.language_model.layers.") for name in saved)
    assert fine_tune(run, work, again, tmp_path / "log.csv")["resumed_from_step"] == 3
    name = "model.safetensors" if mode == "full" else "adapter_model.safetensors"
    assert (again / name).read_bytes() == (weights / name).read_bytes()
