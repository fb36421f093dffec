"""Trained weights must change the outputs of the base model before their answers count."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.calls import NO_LIMITS, predict, train
from tests.unit.conftest import BASE, LORA, Prepared
from usertune.core.errors import UserError
from usertune.core.manifest import read_result
from usertune.inference.engine import EngineSettings
from usertune.inference.engines.transformers import TransformersEngine
from usertune.inference.questions import questions_of
from usertune.models.loading import load_model, prepare_for_training
from usertune.models.recipe import LoraSettings


@pytest.fixture
def save_adapter(tmp_path: Path) -> Callable[[float], Path]:
    """Return a function that saves adapters with B matrices of this size."""

    def save(size: float) -> Path:
        adapted: Any = prepare_for_training(load_model(BASE, "float32"), LoraSettings(**LORA))
        torch.manual_seed(0)
        for name, value in adapted.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(value)
                value.data *= size
        adapted.save_pretrained(str(tmp_path / "adapter"))
        return tmp_path / "adapter"

    return save


def _effect(prepared: Prepared, mode: str, folder: Path | None, dtype: str = "float32") -> dict[str, Any] | None:
    generator = TransformersEngine(EngineSettings(BASE, mode, folder, dtype, NO_LIMITS, prepared.root, 12))
    return generator.effects(questions_of(prepared.samples("1", "2"))).get("")


def test_the_base_model_has_no_effect_to_show(prepared: Prepared) -> None:
    assert _effect(prepared, "vanilla", None) is None


def test_an_adapters_effect_is_the_largest_change_of_a_log_probability(
    prepared: Prepared, save_adapter: Callable[[float], Path]
) -> None:
    folder = save_adapter(0.01)
    effect = _effect(prepared, "lora", folder)
    assert effect is not None
    assert effect["probes"] == 4
    generator = TransformersEngine(EngineSettings(BASE, "lora", folder, "float32", NO_LIMITS, prepared.root, 12))
    expected = 0.0
    for sample in prepared.samples("1", "2")[:4]:
        batch = generator._probe(sample)
        labels = batch.pop("labels")[0, 1:]
        said = []
        for model in (generator.model, load_model(BASE, "float32").eval()):
            with torch.no_grad():
                said.append(model(**batch).logits[0, :-1].log_softmax(-1))
        change = (said[0] - said[1]).abs()
        expected = max(
            expected, *(float(change[position, token]) for position, token in enumerate(labels) if token >= 0)
        )
    assert effect["largest_change"] == pytest.approx(expected, rel=1e-4)
    assert expected > 0.01


def test_an_adapter_that_is_still_zero_is_reported(
    prepared: Prepared, save_adapter: Callable[[float], Path], caplog: pytest.LogCaptureFixture
) -> None:
    assert _effect(prepared, "lora", save_adapter(0.0)) == {"probes": 4, "largest_change": 0.0, "merged": True}
    assert "the adapter is still all zero, so its answers are those of the base model" in caplog.text


def test_an_adapter_too_small_for_the_number_format_is_reported(
    prepared: Prepared, save_adapter: Callable[[float], Path], caplog: pytest.LogCaptureFixture
) -> None:
    assert _effect(prepared, "lora", save_adapter(1e-8), "bfloat16") == {"probes": 4, "largest_change": 0.0}
    assert "too small to change a log-probability in this dtype" in caplog.text


def test_an_adapter_that_is_not_at_work_is_refused(prepared: Prepared, save_adapter: Callable[[float], Path]) -> None:
    folder = save_adapter(0.1)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 0}))
    with pytest.raises(UserError, match=rf"{folder}: the adapter is not zero, but changes no .*train.*again"):
        _effect(prepared, "lora", folder)


def test_an_adapter_with_which_nothing_is_finite_is_refused(
    prepared: Prepared, save_adapter: Callable[[float], Path]
) -> None:
    with pytest.raises(UserError, match="the model's output is not finite"):
        _effect(prepared, "lora", save_adapter(1e37))


def test_a_full_model_is_compared_with_the_base_models_files(
    prepared: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(BASE, tmp_path / "full"))
    assert _effect(prepared, "full", folder) == {"probes": 0, "largest_change": 0.0}
    assert "all weights are those of the base model" in caplog.text
    weights = load_file(folder / "model.safetensors")
    bfloat16 = {name: value.bfloat16() for name, value in weights.items()}
    save_file(bfloat16, folder / "model.safetensors", {"format": "pt"})
    assert _effect(prepared, "full", folder, "bfloat16") == {"probes": 0, "largest_change": 0.0}
    bfloat16["model.language_model.embed_tokens.weight"][7, 7] += 0.5
    save_file(bfloat16, folder / "model.safetensors", {"format": "pt"})
    assert _effect(prepared, "full", folder, "bfloat16") is None


def test_the_effect_is_in_the_predictions_whoever_generated_them(
    prepared: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train(**prepared.train_arguments(tmp_path / "lora"))
    arguments = prepared.predict_arguments(tmp_path)
    arguments |= {"train_manifest": tmp_path / "lora" / "manifest.json", "experiment": "lora"}
    first = predict(**arguments)
    assert first["generated"] == 5
    assert first["adapter_effect"]["probes"] == 4
    assert first["adapter_effect"]["largest_change"] > 0
    assert first["adapter_effect"]["merged"] is True
    arguments["predictions_file"].unlink()
    caplog.clear()
    again = predict(**arguments)
    assert (again["generated"], again["adapter_effect"]) == (0, first["adapter_effect"])
    assert "changes log-probabilities" not in caplog.text
    assert read_result(arguments["predictions_file"])["adapter_effect"] == first["adapter_effect"]
    vanilla = prepared.predict_arguments(tmp_path / "vanilla")
    assert predict(**vanilla)["adapter_effect"] is None
