"""Weights that are not complete are refused, wherever they are loaded; none becomes random without a word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed import checkpoint as distributed_checkpoint

from tests.unit.conftest import BASE, LORA
from usertune.core.errors import UserError
from usertune.models.loading import load_for_prediction, load_model, prepare_for_training
from usertune.models.recipe import FreezeSettings, LoraSettings
from usertune.models.weights import is_finite
from usertune.training.checkpoints import SHARDED_MODEL, SHARDED_OPTIMIZER, check_checkpoint

State = dict[str, torch.Tensor]
LAYER = "model.language_model.layers.1.self_attn.q_proj.weight"
EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"


def _renamed(state: State) -> State:
    return {name.replace("language_model", "foo"): value for name, value in state.items()}


def _without(name: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key != name}


def _with(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    return lambda state: {**state, name: change(state[name])}


def _not_finite(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        changed.view(-1)[7] = value
        return changed

    return change


def _rewrite(file: Path, change: Callable[[State], State]) -> None:
    save_file({name: value.contiguous() for name, value in change(load_file(file)).items()}, file, {"format": "pt"})


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "base"))


@pytest.fixture(scope="module")
def trained_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved adapter with random matrices."""
    folder = tmp_path_factory.mktemp("adapter")
    adapted: Any = prepare_for_training(load_model(BASE, "float32"), LoraSettings(**LORA))
    torch.manual_seed(0)
    for name, value in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value, std=0.05)
    adapted.save_pretrained(str(folder))
    return folder


@pytest.fixture
def adapter(trained_adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_adapter, tmp_path / "adapter"))


BROKEN: dict[str, tuple[Callable[[State], State], str]] = {
    "all renamed": (_renamed, r"36 missing \(lm_head.*\.\.\.\); 35 unexpected \(model\.foo\.embed_tokens\.weight, "),
    "one missing": (_without(LAYER), rf"1 missing \({LAYER}\)"),
    "vision missing": (_without("model.visual.pos_embed.weight"), r"1 missing \(model\.visual\.pos_embed"),
    "one unexpected": (lambda state: {**state, "scale": torch.ones(1)}, r"1 unexpected \(scale\)"),
    "another shape": (
        _with(LAYER, lambda value: value[:64]),
        rf"1 of another shape \({LAYER}: \[64, 128\] in the file, \[128, 128\] in the model\)",
    ),
    "not a number": (_with(LAYER, _not_finite(float("nan"))), rf"1 not finite \({LAYER}\)"),
    "infinite": (_with(LAYER, _not_finite(float("-inf"))), rf"1 not finite \({LAYER}\)"),
    "two heads": (
        lambda state: {**state, HEAD: state[EMBEDDING] + 1},
        r"tie_word_embeddings, but lm_head\.weight and the input embedding differ",
    ),
}


@pytest.mark.parametrize("mode", ["vanilla", "full"])
@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_a_model_whose_weights_are_not_complete_is_refused(
    base: Path, mode: str, change: Callable[[State], State], message: str
) -> None:
    _rewrite(base / "model.safetensors", change)
    advice = "base_model.path needs a complete" if mode == "vanilla" else "delete this folder"
    with pytest.raises(UserError, match=rf"{base}: .*{message}.*{advice}"):
        load_for_prediction(base if mode == "vanilla" else BASE, mode, base, "float32")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state,
        lambda state: {**state, HEAD: state[EMBEDDING].clone()},
        lambda state: {**_without(EMBEDDING)(state), HEAD: state[EMBEDDING]},
        lambda state: {**state, "model.language_model.rotary_emb.inv_freq": torch.ones(16)},
    ],
    ids=["as it is", "a copy of the tied head", "the tied head alone", "a computed buffer"],
)
def test_what_may_differ_loads_the_same_model(base: Path, change: Callable[[State], State]) -> None:
    _rewrite(base / "model.safetensors", change)
    expected = load_model(BASE, "float32").state_dict()
    found = load_model(base, "float32").state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("keep", [0, 7, 100, 20_000, -1])
def test_a_file_that_was_cut_short_is_refused(base: Path, keep: int) -> None:
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=rf"{base}: cannot be loaded: .*complete model"):
        load_model(base, "float32")


def test_an_adapter_is_loaded_whole(adapter: Path) -> None:
    model: Any = load_for_prediction(BASE, "lora", adapter, "float32")
    saved = load_file(adapter / "adapter_model.safetensors")
    loaded = {name.replace(".default.", "."): value for name, value in model.named_parameters() if "lora_" in name}
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert not any(value.requires_grad for value in model.parameters())


ONE = "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_B.weight"
BROKEN_ADAPTERS: dict[str, tuple[Callable[[State], State], str]] = {
    "all renamed": (_renamed, r"42 missing \(base_model.*\.\.\.\); 42 unexpected \(base_model\.model\.model\.foo"),
    "one missing": (_without(ONE), rf"1 missing \({ONE}\)"),
    "one unexpected": (
        lambda state: {**state, ONE.replace("language_model", "visual"): state[ONE].clone()},
        r"1 unexpected \(base_model\.model\.model\.visual\.",
    ),
    "another shape": (_with(ONE, lambda value: value[:, :2]), r"1 of another shape \(.*\[256, 2\] in the file"),
    "not a number": (_with(ONE, _not_finite(float("nan"))), r"1 not finite"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN_ADAPTERS.values(), ids=BROKEN_ADAPTERS)
def test_an_adapter_that_is_not_complete_is_refused(
    adapter: Path, change: Callable[[State], State], message: str
) -> None:
    _rewrite(adapter / "adapter_model.safetensors", change)
    with pytest.raises(UserError, match=rf"{adapter}: .*{message}.*delete this folder"):
        load_for_prediction(BASE, "lora", adapter, "float32")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("r", 8, r"42 of another shape"),
        ("target_modules", r"model\.language_model\..*\.q_proj", r"36 unexpected"),
        ("target_modules", r"model\..*\.(q_proj|qkv)", r"4 missing \(.*visual.*; 36 unexpected"),
        ("target_modules", r"nothing\.like\.this", r"cannot be loaded: Target modules"),
    ],
)
def test_an_adapter_that_is_not_what_its_config_says_is_refused(
    adapter: Path, setting: str, value: Any, message: str
) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(UserError, match=rf"{adapter}: .*{message}"):
        load_for_prediction(BASE, "lora", adapter, "float32")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_without_one_of_its_files_is_refused(adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    with pytest.raises(UserError, match=rf"{adapter}.*(cannot be (loaded|read))"):
        load_for_prediction(BASE, "lora", adapter, "float32")


def test_an_adapter_file_that_was_cut_short_is_refused(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut short"):
        load_for_prediction(BASE, "lora", adapter, "float32")


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("kind", ["all renamed", "one missing", "one unexpected", "another shape"])
def test_a_working_checkpoint_of_other_weights_is_refused(
    base: Path, adapter: Path, mode: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(BASE, "float32")
    settings = LoraSettings(**LORA) if mode == "lora" else FreezeSettings(vision=True, merger=True)
    prepared = prepare_for_training(model, settings)
    folder, file = (adapter, "adapter_model") if mode == "lora" else (base, "model")
    check_checkpoint(prepared, folder)
    change, message = (BROKEN_ADAPTERS if mode == "lora" else BROKEN)[kind]
    _rewrite(folder / f"{file}.safetensors", change)
    with pytest.raises(UserError, match=rf"{folder}: .*{message.split(';')[0].replace('36', '3[56]')}.*continues from"):
        check_checkpoint(prepared, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_renamed, r"36 missing .*; 35 unexpected \(model\.foo"),
        (_without(LAYER), rf"1 missing \({LAYER}\)"),
        (_with(LAYER, lambda value: value[:64]), r"1 of another shape"),
    ],
)
def test_a_sharded_checkpoint_of_other_weights_is_refused(
    tmp_path: Path, change: Callable[[State], State], message: str
) -> None:
    model = load_model(BASE, "float32")
    state = {name: value for name, value in model.state_dict().items() if name != HEAD}
    for name, weights in (("right", state), ("wrong", change(state))):
        distributed_checkpoint.save({"model": weights}, checkpoint_id=tmp_path / name / SHARDED_MODEL, no_dist=True)
        distributed_checkpoint.save({}, checkpoint_id=tmp_path / name / SHARDED_OPTIMIZER, no_dist=True)
    check_checkpoint(model, tmp_path / "right")
    with pytest.raises(UserError, match=rf"wrong: .*{message}.*continues from an earlier checkpoint"):
        check_checkpoint(model, tmp_path / "wrong")


def test_a_pass_over_the_weights_finds_what_is_not_finite() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        tensor = torch.linspace(-3e4, 3e4, 1000).to(dtype).view(20, 50)
        assert is_finite(tensor)
        assert is_finite(torch.full((3,), torch.finfo(dtype).max, dtype=dtype))
        for value in (float("nan"), float("inf"), float("-inf")):
            assert not is_finite(_not_finite(value)(tensor))
    assert is_finite(torch.tensor([1, 2]))
    assert is_finite(torch.ones(0))
