"""Weights from elsewhere: what trainers write can be used, and everything else is refused by name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from usertune.core.errors import UserError
from usertune.core.hashing import digest_file
from usertune.models.adapter_names import peft_name, peft_names
from usertune.models.base_model import describe_base_model
from usertune.models.external_weights import (
    WeightFiles,
    check_unchanged,
    check_weights,
    deciding_files,
    describe_weights,
    other_base,
    weights_state,
)
from usertune.models.loading import load_for_prediction, load_model
from usertune.models.recipe import BaseModelRecipe, OtherWeightsRecipe

BASE = Path(__file__).parents[3] / "demo" / "base"
KEY = "experiments.theirs.weights"
Adapter = Callable[..., Path]
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
LAYER = "model.language_model.layers.0.self_attn.q_proj"
REGEX = r"^(model\.language_model(?=\.).*\.(q_proj|v_proj))$"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves an adapter as PEFT does; equal settings share a folder."""
    made: dict[str, Path] = {}

    def save(**settings: Any) -> Path:
        name = json.dumps(settings, sort_keys=True)
        if name not in made:
            folder = tmp_path_factory.mktemp("adapter")
            torch.manual_seed(0)
            config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **settings})
            model = get_peft_model(load_model(BASE, "float32"), config)
            for key, value in model.named_parameters():
                if "lora_B" in key or "modules_to_save" in key:
                    torch.nn.init.normal_(value.data, std=0.5)
            model.save_pretrained(str(folder))
            made[name] = folder
        return made[name]

    return save


@pytest.fixture
def adapter(trained: Callable[..., Path], tmp_path: Path) -> Adapter:
    """Return a function that saves an adapter into a folder of the test's own."""

    def copy(name: str = "adapter", **settings: Any) -> Path:
        return Path(shutil.copytree(trained(**settings), tmp_path / name))

    return copy


def renamed(folder: Path, rename: Callable[[str], str]) -> None:
    state = load_file(folder / TENSORS)
    save_file({rename(name): value for name, value in state.items()}, folder / TENSORS, {"format": "pt"})


def configured(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def logits(folder: Path | None, mode: str = "lora") -> torch.Tensor:
    model: Any = load_for_prediction(BASE, mode if folder else "vanilla", folder, "float32")
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=torch.arange(20, 40)[None]).logits
    return result


def problem(folder: Path, mode: str = "lora") -> str:
    with pytest.raises(UserError) as error:
        check_weights(folder, mode, BASE, KEY)
    assert str(error.value).startswith(f"{KEY}: {folder}")
    return str(error.value).removeprefix(f"{KEY}: {folder}")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "lora_dropout": 0.1},
        {"target_modules": REGEX},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "gate_proj"], "exclude_modules": ["layers.0.mlp.gate_proj"]},
        {"layers_to_transform": [1], "layers_pattern": "layers"},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.0.self_attn.q_proj": 64}},
        {"target_modules": ["q_proj", "qkv"]},
        {"modules_to_save": ["merger"], "target_modules": REGEX},
        {"init_lora_weights": "gaussian"},
    ],
    ids=str,
)
def test_what_peft_writes_is_found_good_and_has_an_effect(
    trained: Callable[..., Path], settings: dict[str, Any]
) -> None:
    folder = trained(**settings)
    check_weights(folder, "lora", BASE, KEY)
    assert not torch.equal(logits(folder), logits(None))


# How the names differ in the files of different programs.
LAYOUTS: dict[str, Callable[[str], str]] = {
    "PEFT, ms-swift, LLaMA-Factory, TRL, 2U1": lambda name: name,
    "the state of a model": lambda name: name.replace(".weight", ".default.weight"),
    "another adapter's name": lambda name: name.replace(".weight", ".sft.weight"),
    "DDP": lambda name: f"module.{name}",
    "FSDP": lambda name: name.replace("layers.", "layers._fsdp_wrapped_module._checkpoint_wrapped_module."),
    "without PEFT's prefix": lambda name: name.removeprefix("base_model.model."),
}


@pytest.mark.parametrize("rename", LAYOUTS.values(), ids=LAYOUTS)
def test_names_of_other_programs_give_the_same_model(
    adapter: Adapter, trained: Callable[..., Path], rename: Callable[[str], str]
) -> None:
    folder = adapter()
    renamed(folder, rename)
    check_weights(folder, "lora", BASE, KEY)
    assert torch.equal(logits(folder), logits(trained()))


def test_names() -> None:
    name = f"base_model.model.{LAYER}.lora_A.weight"
    assert peft_name(name) == name
    assert peft_name("base_model.model.x.modules_to_save.default.weight") == "base_model.model.x.weight"
    with pytest.raises(ValueError, match="several adapters"):
        peft_names([f"{LAYER}.lora_A.one.weight", f"{LAYER}.lora_A.two.weight"])


def test_what_trainers_save_beside_an_adapter_is_ignored(adapter: Adapter) -> None:
    folder = adapter()
    # ms-swift.
    (folder / "additional_config.json").write_text('{"lora_dtype": null, "lorap_lr_ratio": null}')
    for name in ("args.json", "trainer_state.json", "optimizer.pt", "training_args.bin", "config.json"):
        (folder / name).write_text("{}")
    # 2U1, if nothing but the adapter was trained.
    torch.save({}, folder / "non_lora_state_dict.bin")
    check_weights(folder, "lora", BASE, KEY)
    assert deciding_files(folder, "lora") == [CONFIG, TENSORS]


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["PLANTED"],)


def test_what_was_trained_beside_an_adapter_is_refused_and_never_unpickled(
    adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter()
    torch.save({"merger": torch.ones(3), "bias": torch.ones(2)}, folder / "non_lora_state_dict.bin")
    said = problem(folder)
    assert "non_lora_state_dict.bin holds 2 further tensors" in said
    assert "src/merge_lora_weights.py" in said
    monkeypatch.setenv("PLANTED", str(tmp_path / "planted"))
    for legacy in (True, False):
        torch.save(Harmful(), folder / "non_lora_state_dict.bin", _use_new_zipfile_serialization=not legacy)
        if legacy:
            assert "holds further weights" in problem(folder)
        else:
            check_weights(folder, "lora", BASE, KEY)
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA adapters"),
        ({"use_dora": True}, "'use_dora' is True, which is not supported; merge the adapter"),
        ({"lora_bias": True}, "'lora_bias' is True"),
        ({"trainable_token_indices": [1]}, "'trainable_token_indices' is [1]"),
        ({"target_parameters": ["x"]}, "'target_parameters'"),
        ({"layer_replication": [[0, 1]]}, "'layer_replication'"),
        ({"an_option_of_tomorrow": 1}, "'an_option_of_tomorrow' is 1, which is not supported"),
        ({"bias": "all"}, "bias is 'all'; trained biases"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the base model's weights"),
        ({"r": 0}, "r is 0; the rank must be"),
        ({"r": "8"}, "r is '8'"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern.q_proj is -1"),
        ({"lora_alpha": 0}, "lora_alpha is 0, with which the adapter has no effect"),
        ({"target_modules": None}, "target_modules is None"),
        ({"target_modules": "("}, "target_modules is '(', which is no regular expression"),
        ({"modules_to_save": "merger"}, "modules_to_save is 'merger'; a list"),
    ],
    ids=str,
)
def test_settings_that_would_change_the_result_are_refused_by_name(
    adapter: Adapter, changes: dict[str, Any], said: str
) -> None:
    folder = adapter()
    configured(folder, **changes)
    assert f"adapter_config.json: {said}" in problem(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"r": 8}, "does not match adapter_config.json: 6 of another shape"),
        ({"rank_pattern": {"v_proj": 2}}, "does not match adapter_config.json: 3 of another shape"),
        (
            {"target_modules": ["q_proj"]},
            "does not hold the layers that adapter_config.json names (target_modules): 3 un",
        ),
        ({"target_modules": ["q_proj", "v_proj", "qkv"]}, "names (target_modules): 2 missing (model.visual"),
        ({"layers_to_transform": 0}, "names (target_modules): 4 unexpected"),
        ({"modules_to_save": ["merger"]}, "tensors beside the adapter do not match modules_to_save"),
    ],
    ids=str,
)
def test_settings_and_tensors_that_differ_are_refused(adapter: Adapter, changes: dict[str, Any], said: str) -> None:
    folder = adapter()
    configured(folder, **changes)
    assert said in problem(folder)


def replaced(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / TENSORS)), folder / TENSORS, {"format": "pt"})


A, B = f"base_model.model.{LAYER}.lora_A.weight", f"base_model.model.{LAYER}.lora_B.weight"
EMBEDDING = "base_model.model.model.language_model.embed_tokens"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda state: {name: value for name, value in state.items() if name != B},
            f"{LAYER}.lora_B: missing, although",
        ),
        (lambda state: {**state, A: state[A][:, 1:].clone()}, "does not fit the base model: 1 of another shape"),
        (
            lambda state: {name.replace("layers.0", "layers.99"): value for name, value in state.items()},
            "are not in the base model (model.language_model.layers.99",
        ),
        (lambda state: {**state, f"{EMBEDDING}.weight": torch.ones(2, 2)}, "the embedding or the head was trained"),
        (lambda state: {**state, f"{EMBEDDING}.lora_embedding_A": torch.ones(2, 2)}, "the embedding or the head"),
        (
            lambda state: {**state, A.replace("lora_A", "lora_magnitude_vector"): torch.ones(2)},
            "not parts of a plain LoRA",
        ),
        (lambda state: {**state, A.replace("weight", "one.weight"): torch.ones(2)}, "it holds several adapters"),
        (lambda state: {"x": torch.ones(2)}, "holds no adapter (base_model.model.x)"),
        (
            lambda state: {**state, "base_model.model.model.visual.x.weight": torch.ones(2)},
            "1 unexpected (model.visual.x",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(adapter: Adapter, change: Any, said: str) -> None:
    folder = adapter()
    replaced(folder, change)
    assert said in problem(folder)


def test_folders_that_are_something_else(adapter: Adapter, tmp_path: Path) -> None:
    folder = adapter()
    assert "not a folder" in problem(tmp_path / "adaptor")
    assert f"similar folders: {folder}" in problem(tmp_path / "adaptor")
    assert "a file; give the folder" in problem(folder / CONFIG)
    assert "the folder holds an adapter: write mode: lora" in problem(folder, "full")
    assert "seems to hold a complete model: write mode: full" in problem(BASE)
    assert f"did you mean {folder}?" in problem(tmp_path)
    (folder / TENSORS).rename(folder / "adapter_model.bin")
    assert "adapter_model.safetensors is missing (adapter_model.bin is a pickle, which may run code" in problem(folder)
    (folder / TENSORS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    assert "a Git LFS pointer" in problem(folder)
    (folder / CONFIG).write_text("{")
    assert "2 problems" in problem(folder)
    assert "adapter_config.json is not valid JSON" in problem(folder)


def test_a_complete_model(tmp_path: Path) -> None:
    theirs = Path(shutil.copytree(BASE, tmp_path / "theirs"))
    for name in ("tokenizer.json", "preprocessor_config.json", "processor_config.json", "chat_template.jinja"):
        (theirs / name).unlink(missing_ok=True)
    state = load_file(theirs / "model.safetensors")
    save_file({name: value * 1.5 for name, value in state.items()}, theirs / "model.safetensors", {"format": "pt"})
    (theirs / "optimizer.pt").write_text("large")
    check_weights(theirs, "full", BASE, KEY)
    assert not torch.equal(logits(theirs, "full"), logits(None))
    assert "optimizer.pt" not in deciding_files(theirs, "full")
    # In shards, as a merged model is saved.
    names = sorted(state)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({name: state[name] for name in own}, theirs / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, own in shards.items() for name in own}}
    (theirs / "model.safetensors.index.json").write_text(json.dumps(index))
    (theirs / "model.safetensors").unlink()
    check_weights(theirs, "full", BASE, KEY)
    assert torch.equal(logits(theirs, "full"), logits(None))
    assert {"config.json", *shards, "model.safetensors.index.json"} <= set(deciding_files(theirs, "full"))

    (theirs / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index["weight_map"]}))
    assert "model.safetensors.index.json has no metadata, without which transformers" in problem(theirs, "full")
    (theirs / "model.safetensors.index.json").write_text(json.dumps(index))
    (theirs / CONFIG).write_text("{}")
    assert "adapter_config.json lies beside a complete model" in problem(theirs, "full")
    (theirs / CONFIG).unlink()
    (theirs / "model-2.safetensors").unlink()
    assert "model-2.safetensors, listed in model.safetensors.index.json, is missing" in problem(theirs, "full")


def test_a_complete_model_that_is_another_one(tmp_path: Path) -> None:
    theirs = Path(shutil.copytree(BASE, tmp_path / "theirs"))
    state = load_file(theirs / "model.safetensors")
    name = next(name for name in state if name.endswith("layers.0.self_attn.q_proj.weight"))
    other = {**state, name: state[name][:-1].clone()}
    save_file(other, theirs / "model.safetensors", {"format": "pt"})
    assert "not the weights of this study's base model" in problem(theirs, "full")
    assert "1 of another shape" in problem(theirs, "full")
    (theirs / "model.safetensors").rename(theirs / "pytorch_model.bin")
    assert "pytorch_model.bin has another format, which may run code" in problem(theirs, "full")
    (theirs / "pytorch_model.bin").unlink()
    (theirs / "global_step500").mkdir()
    assert "zero_to_fp32.py" in problem(theirs, "full")


@pytest.mark.parametrize(
    ("trained_on", "base", "same"),
    [
        ("Qwen/Qwen3-VL-8B-Instruct", "/models/Qwen3-VL-8B-Instruct", True),
        ("/root/.cache/hub/models--Qwen--Qwen3-VL-8B-Instruct/snapshots/0123", "Qwen/Qwen3-VL-8B-Instruct", True),
        ("/models/qwen3-vl-8b-instruct/", "Qwen/Qwen3-VL-8B-Instruct", True),
        ("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-8B-Instruct", False),
        ("", "Qwen/Qwen3-VL-8B-Instruct", False),
    ],
)
def test_the_base_that_an_adapter_names(trained_on: str, base: str, same: bool) -> None:
    assert (other_base(trained_on, base) is None) == same
    assert other_base(None, base) is None


def test_the_manifest_is_that_of_a_training_and_depends_on_content_alone(adapter: Adapter, tmp_path: Path) -> None:
    base = tmp_path / "base_model/manifest.json"
    describe_base_model(BaseModelRecipe(step="base_model", path=str(BASE)), base)

    def describe(folder: Path) -> dict[str, Any]:
        recipe = OtherWeightsRecipe(step="other_weights", mode="lora", path="as written")
        files = WeightFiles(base, folder, tmp_path / "other_weights/theirs.json")
        return describe_weights(recipe, "theirs", files)

    folder = adapter()
    first = describe(folder)
    assert first["weights_files"] == {name: digest_file(folder / name) for name in (CONFIG, TENSORS)}
    assert first["weights_folder"] == str(folder)
    assert not list((tmp_path / "other_weights").glob("*/**"))
    assert describe(adapter("copy"))["output"] == first["output"]
    check_unchanged(first, folder)
    state = weights_state(str(folder), "lora")
    configured(folder, lora_alpha=16)
    assert weights_state(str(folder), "lora") != state
    assert describe(folder)["output"] != first["output"]
    with pytest.raises(UserError, match=r"adapter_config\.json: changed since it was read"):
        check_unchanged(first, folder)
