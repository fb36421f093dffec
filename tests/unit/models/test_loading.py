"""Which weights are trained, and that the vision tower is not."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3VLForConditionalGeneration

from tests.support.calls import NO_LIMITS
from tests.unit.conftest import BASE, LORA
from usertune.models.conversation import ConversationTokenizer
from usertune.models.families.catalogue import family_of
from usertune.models.families.qwen3_vl import ADAPTED_LAYERS
from usertune.models.loading import (
    check_frozen,
    load_model,
    load_processor,
    prepare_for_training,
    used_gpus,
)
from usertune.models.recipe import FreezeSettings, LoraSettings, Pixels

FAMILY = family_of(BASE)


@pytest.fixture
def model() -> Any:
    return load_model(BASE, "float32")


def _trained(model: Any) -> set[str]:
    return {name for name, value in model.named_parameters() if value.requires_grad}


def test_lora_trains_adapters_of_seven_kinds_of_layer_in_the_language_model_only(model: Any) -> None:
    layers = model.config.text_config.num_hidden_layers
    trained = _trained(prepare_for_training(model, LoraSettings(**LORA)))
    pattern = re.compile(
        r"base_model\.model\.model\.language_model\.layers\.(\d)\.\w+\.(\w+)\.lora_([AB])\.default\.weight"
    )
    found = {match.groups() for name in trained if (match := pattern.fullmatch(name))}
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert sorted(kinds) == sorted(ADAPTED_LAYERS)
    assert found == {(str(layer), kind, side) for layer in range(layers) for kind in kinds for side in "AB"}
    assert len(trained) == len(found)


BOTH = {"vision": True, "merger": True}


@pytest.mark.parametrize("vision", [True, False])
@pytest.mark.parametrize("merger", [True, False])
def test_full_trains_everything_but_the_frozen_parts(model: Any, vision: bool, merger: bool) -> None:
    every = {name for name, _ in model.named_parameters()}
    mergers = {name for name in every if name.startswith(("model.visual.merger.", "model.visual.deepstack_merger"))}
    tower = {name for name in every if name.startswith("model.visual.")} - mergers
    assert {name.split(".")[2] for name in mergers} == {"merger", "deepstack_merger_list"}
    assert {name.split(".")[2] for name in tower} >= {"patch_embed", "blocks"}
    frozen = (tower if vision else set()) | (mergers if merger else set())
    trained = prepare_for_training(model, FreezeSettings(vision=vision, merger=merger))
    assert _trained(trained) == every - frozen


@pytest.mark.parametrize(
    ("part", "named"), [("patch_embed", "vision"), ("merger", "merger"), ("deepstack_merger_list", "merger")]
)
def test_a_vision_weight_that_is_trained_is_noticed(model: Any, part: str, named: str) -> None:
    prepare_for_training(model, FreezeSettings(**BOTH))
    getattr(model.model.visual, part).requires_grad_(True)
    with pytest.raises(RuntimeError, match=rf"the {named} weights are not frozen: model\.visual\.{part}"):
        check_frozen(model, FAMILY, BOTH)
    check_frozen(model, FAMILY, {**BOTH, named: False})


def test_an_adapter_on_the_vision_tower_is_noticed_even_when_frozen(model: Any) -> None:
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["qkv", "q_proj"]))
    for name, value in adapted.named_parameters():
        value.requires_grad = "lora_" in name and "visual" not in name
    with pytest.raises(RuntimeError, match="not frozen"):
        check_frozen(adapted, FAMILY, BOTH)


def test_a_model_in_which_nothing_is_trained_is_noticed(model: Any) -> None:
    model.requires_grad_(False)
    with pytest.raises(RuntimeError, match="no parameter is trained"):
        check_frozen(model, FAMILY, BOTH)


def test_a_model_without_a_vision_tower_is_noticed(model: Any) -> None:
    with pytest.raises(RuntimeError, match="no vision weights"):
        check_frozen(model.model.language_model, FAMILY, BOTH)


@pytest.mark.parametrize(
    ("pixels", "tokens"),
    [(NO_LIMITS, 64), (Pixels(min=None, max=128 * 128), 16), (Pixels(min=512 * 512, max=None), 256)],
)
def test_pixel_limits_change_the_number_of_visual_tokens(pixels: dict[str, int | None], tokens: int) -> None:
    conversations = ConversationTokenizer(load_processor(BASE, pixels), FAMILY)
    image: Any = {"path": "x", "sha256": "", "width": 256, "height": 256}
    assert conversations.image_tokens({"images": [image]}) == [tokens]  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "written", ["5d1fa6e4-90d6-2c1f-9c2b-7b3a1de0a000", "GPU-5d1fa6e4-90d6-2c1f-9c2b-7b3a1de0a000"]
)
def test_a_gpu_is_named_as_nvidia_smi_names_it(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert used_gpus() == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid={1: written}[number]))
    assert used_gpus() == ["GPU-5d1fa6e4-90d6-2c1f-9c2b-7b3a1de0a000"]


def test_weights_go_straight_to_the_device_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = []
    original = Qwen3VLForConditionalGeneration.from_pretrained

    def from_pretrained(folder: str, **settings: Any) -> Any:
        maps.append(settings.pop("device_map", None))
        return original(folder, **settings)

    monkeypatch.setattr(Qwen3VLForConditionalGeneration, "from_pretrained", from_pretrained)
    load_model(BASE, "float32", target=torch.device("cpu"))
    load_model(BASE, "float32", target=torch.device("cuda", 1))
    assert maps == [None, {"": torch.device("cuda", 1)}]
