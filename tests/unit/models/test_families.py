"""Every family, on a tiny random model with the real tokenizer of Qwen."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from tests.support.calls import NO_LIMITS
from tests.support.tiny_families import THINKING, TINY, TOKEN, conversations_of, describe
from tests.unit.conftest import LORA, Prepared
from usertune.data.samples import Sample
from usertune.models.families.catalogue import FAMILIES, family_of, get_family
from usertune.models.family import with_pixels
from usertune.models.loading import load_model, load_processor, prepare_for_training
from usertune.models.model_folder import ModelFolder
from usertune.models.recipe import FreezeSettings, LoraSettings, Pixels


def test_every_family_is_tested_here() -> None:
    assert list(TINY) == list(FAMILIES)


def test_a_family_that_answers_in_another_frame_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(family_of(base)), "answer_frame", "pixels")
    (problem,) = ModelFolder(base).inspect()
    assert f"models of type {base.name} answer in the frame pixels; answers are read as relative_1000" in problem


def test_a_folder_is_checked_without_torch(base: Path, tmp_path: Path) -> None:
    assert ModelFolder(base).inspect() == []
    manifest = describe(base, tmp_path / "manifest.json")
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
    conversations = conversations_of(base)
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
    conversations = conversations_of(base)
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
