"""Every family, on a tiny random model with the real tokenizer of Qwen."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from tests.support.calls import NO_LIMITS, predict, train
from tests.support.tiny_families import TINY, TOKEN, write_tiny
from tests.unit.conftest import EXECUTION, FROZEN, LORA, Prepared
from usertune.data.samples import Sample
from usertune.inference.engine import EngineSettings
from usertune.inference.engines.transformers import TransformersEngine
from usertune.inference.questions import questions_of
from usertune.models.base_model import describe_base_model
from usertune.models.conversation import Collator, ConversationTokenizer
from usertune.models.families.catalogue import FAMILIES, family_of, get_family
from usertune.models.family import with_pixels
from usertune.models.image_memory import ImageMemory
from usertune.models.loading import load_model, load_processor, prepare_for_training
from usertune.models.model_folder import ModelFolder
from usertune.models.patches import LinearPatches, linear_patches
from usertune.models.recipe import BaseModelRecipe, FreezeSettings, LoraSettings, Pixels
from usertune.models.tensor_files import shapes_in
from usertune.training.finetune import fine_tune
from usertune.training.fused_layers import fuse_layers
from usertune.training.inputs import FineTuning
from usertune.training.last_layer import LastLayer
from usertune.training.recipe import Execution, TrainRecipe
from usertune.training.trainer import answer_loss_sum

# Of models whose template asks for it.
THINKING = {"qwen3_5": False}


@pytest.fixture(scope="module", params=list(FAMILIES))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of a family; the folder has the name of its type."""
    return write_tiny(request.param, tmp_path_factory.mktemp("tiny") / request.param)


def _conversations(base: Path) -> ConversationTokenizer:
    return ConversationTokenizer(load_processor(base, NO_LIMITS), family_of(base), THINKING.get(base.name))


def _recipe(prepared: Prepared, base: Path, mode: str, **training: Any) -> dict[str, Any]:
    more = {"thinking": THINKING[base.name]} if base.name in THINKING else {}
    return {**prepared.train_recipe(mode, **training), **more}


def _described(base: Path, file: Path) -> dict[str, Any]:
    recipe = BaseModelRecipe(step="base_model", path=str(base), pixels=NO_LIMITS, thinking=THINKING.get(base.name))
    return describe_base_model(recipe, file)


def test_every_family_is_tested_here() -> None:
    assert list(TINY) == list(FAMILIES)


def test_a_family_that_answers_in_another_frame_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(family_of(base)), "answer_frame", "pixels")
    (problem,) = ModelFolder(base).inspect()
    assert f"models of type {base.name} answer in the frame pixels; answers are read as relative_1000" in problem


def test_a_folder_is_checked_without_torch(base: Path, tmp_path: Path) -> None:
    assert ModelFolder(base).inspect() == []
    manifest = _described(base, tmp_path / "manifest.json")
    assert manifest["about"]["model_type"] == base.name
    program = (
        "import sys; from usertune.models.base_model import check_local; from usertune.models.recipe import Pixels; "
        f"check_local({str(base)!r}, Pixels()); assert not {{'torch', 'transformers'}} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# A linear layer of the first layer of the language model, which others of its kind have too.
FIRST = {"qwen3_vl": "self_attn.q_proj", "qwen3_5": "linear_attn.out_proj"}


def test_a_layer_that_lacks_a_tensor_of_its_kind_is_found(base: Path) -> None:
    (single,) = base.glob("*.safetensors")
    content = single.read_bytes()
    name = f"language_model.layers.0.{FIRST[base.name]}.weight"
    try:
        single.write_bytes(content.replace(name.encode(), name.replace("_proj", "_porj").encode()))
        (problem,) = ModelFolder(base).inspect()
    finally:
        single.write_bytes(content)
    assert problem.startswith("the weights do not match config.json: ")
    assert name.removesuffix(".weight") in problem


@cache
def _processor(model_type: str, low: int, high: int) -> Any:
    from transformers import Qwen2VLImageProcessor

    return Qwen2VLImageProcessor(
        size={"shortest_edge": low, "longest_edge": high}, patch_size=16, merge_size=2, temporal_patch_size=2
    )


LIMITS = st.sampled_from([(TOKEN, 16 * TOKEN), (65_536, 1280 * 28 * 28), (65_536, 16_777_216), (70_000, 70_001)])


@pytest.mark.parametrize("model_type", list(FAMILIES))
@given(width=st.integers(1, 4000), height=st.integers(1, 4000), limits=LIMITS)
@settings(max_examples=300, deadline=None)
def test_visual_tokens_are_counted_as_the_processor_counts_them(
    model_type: str, width: int, height: int, limits: tuple[int, int]
) -> None:
    width, height = min(width, 200 * height), min(height, 200 * width)
    images = _processor(model_type, *limits)
    own = {"min": limits[0], "max": limits[1], "token": TOKEN}
    expected = images.get_number_of_image_patches(height, width, {}) // images.merge_size**2
    assert get_family(model_type).image_tokens(width, height, own) == expected


@pytest.mark.parametrize("model_type", list(FAMILIES))
@given(width=st.integers(1, 300), height=st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_visual_tokens_are_those_that_the_processor_makes(model_type: str, width: int, height: int) -> None:
    width, height = min(width, 200 * height), min(height, 200 * width)
    low, high = 2 * TOKEN, 30 * TOKEN
    images = [Image.new("RGB", (width, height))]
    (grid,) = _processor(model_type, low, high)(images=images, return_tensors="pt")["image_grid_thw"]
    found = get_family(model_type).image_tokens(width, height, {"min": low, "max": high, "token": TOKEN})
    assert found == int(grid.prod()) // 4


def test_limits_come_from_the_folder_the_processor_and_the_study_alike(base: Path) -> None:
    family, pixels = family_of(base), Pixels(min=5000, max=50_000)
    limits = ModelFolder(base).image_size()
    assert limits == family.limits_of(load_processor(base, NO_LIMITS))
    assert with_pixels(limits, pixels) == family.limits_of(load_processor(base, pixels))
    assert with_pixels(limits, Pixels()) == limits


def _texts(sample: Sample) -> list[dict[str, Any]]:
    return [{"role": turn["role"], "content": [*turn["content"]]} for turn in sample["messages"]]


def test_a_model_is_trained_on_the_answer_and_nothing_else(base: Path, prepared: Prepared) -> None:
    conversations = _conversations(base)
    for sample in prepared.samples("11"):
        prompt, whole = conversations.prompt(sample), conversations.conversation(sample)
        answer = sample["messages"][-1]["content"][0]["text"]
        assert whole.input_ids[: len(prompt)] == prompt
        assert whole.is_answer == [False] * len(prompt) + [True] * (len(whole.input_ids) - len(prompt))
        decode = conversations.tokenizer.decode
        assert decode(whole.input_ids[len(prompt) :]) == f"{answer}<|im_end|>\n"
        thought = "<think>\n\n</think>\n\n" if base.name in THINKING else ""
        assert decode(prompt).endswith(f"<|im_end|>\n<|im_start|>assistant\n{thought}")


def test_ids_are_those_of_transformers_itself(base: Path, prepared: Prepared) -> None:
    conversations = _conversations(base)
    switch = {"enable_thinking": THINKING[base.name]} if base.name in THINKING else {}
    for sample in prepared.samples("11"):
        images = iter(Image.open(prepared.root / image["path"]) for image in sample["images"])
        turns = [
            {
                "role": turn["role"],
                "content": [
                    {"type": "image", "image": next(images)} if part["type"] == "image" else part
                    for part in turn["content"]
                ],
            }
            for turn in sample["messages"]
        ]
        made = conversations.processor.apply_chat_template(turns, tokenize=True, return_dict=True, **switch)
        assert conversations.conversation(sample).input_ids == made["input_ids"][0]


def test_adapters_are_on_every_linear_layer_of_the_language_model_and_no_other(base: Path) -> None:
    model = load_model(base, "float32")
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    expected = {name for name in linear if name.startswith("model.language_model.")}
    adapted = prepare_for_training(model, LoraSettings(**LORA))
    trained = {name for name, value in adapted.named_parameters() if value.requires_grad}
    found = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in trained}
    assert found == expected
    assert len(trained) == 2 * len(expected)
    assert {name.split(".")[1] for name in linear - expected if name.startswith("model.")} == {"visual"}


@pytest.mark.parametrize("vision", [True, False])
@pytest.mark.parametrize("merger", [True, False])
def test_full_trains_everything_but_the_frozen_parts(base: Path, vision: bool, merger: bool) -> None:
    model = load_model(base, "float32")
    every = {name for name, _ in model.named_parameters()}
    tower = {name for name in every if name.startswith("model.visual.")}
    mergers = {name for name in tower if "merger" in name.split(".")[2]}
    assert mergers
    assert tower - mergers >= {"model.visual.patch_embed.proj.weight", "model.visual.pos_embed.weight"}
    trained = prepare_for_training(model, FreezeSettings(vision=vision, merger=merger))
    frozen = (tower - mergers if vision else set()) | (mergers if merger else set())
    assert {name for name, value in trained.named_parameters() if value.requires_grad} == every - frozen


def _batch(base: Path, prepared: Prepared) -> dict[str, Any]:
    conversations = _conversations(base)
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
    _described(base, tmp_path / "base.json")
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
    conversations, samples = _conversations(base), prepared.samples("11")
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


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_linear_patches_agree_with_the_convolution(patches: int, seed: int) -> None:
    torch.manual_seed(seed)
    holder = nn.Module()
    holder.proj = nn.Conv3d(3, 32, (2, 16, 16), (2, 16, 16))
    inputs = torch.randn(patches, 3, 2, 16, 16)
    with torch.no_grad():
        expected = holder.proj(inputs)
        before = {name: value.data_ptr() for name, value in holder.named_parameters()}
        linear_patches(holder)
        found = holder.proj(inputs)
    assert isinstance(holder.proj, LinearPatches)
    assert {name: value.data_ptr() for name, value in holder.named_parameters()} == before
    assert found.shape == expected.shape
    # Sums of 1,536 products in float32, in another order.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_other_convolutions_are_left_alone() -> None:
    for other in (
        nn.Conv3d(3, 4, (2, 16, 16), (1, 16, 16)),
        nn.Conv3d(3, 4, (2, 16, 16), (2, 16, 16), padding=1),
        nn.Conv3d(4, 4, (2, 16, 16), (2, 16, 16), groups=2),
        nn.Linear(3, 4),
    ):
        holder = nn.Module()
        holder.proj = other
        linear_patches(holder)
        assert holder.proj is other
    linear_patches(nn.Module())


def test_a_loaded_tower_sees_what_its_convolution_sees(base: Path) -> None:
    model = load_model(base, "float32")
    embed = model.get_submodule(family_of(base).patch_embedding)
    convolution = nn.Conv3d(3, embed.proj.weight.shape[0], (2, 16, 16), (2, 16, 16))
    convolution.weight, convolution.bias = embed.proj.weight, embed.proj.bias
    pixels, grid = torch.randn(64, 1536), torch.tensor([[1, 8, 8]])
    with torch.no_grad():
        found = model.model.visual(pixels, grid_thw=grid).pooler_output
        embed.proj = convolution
        expected = model.model.visual(pixels, grid_thw=grid).pooler_output
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
