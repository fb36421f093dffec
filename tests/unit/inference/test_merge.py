"""A merged model says what base model and adapter say, or is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.calls import NO_LIMITS
from tests.unit.conftest import BASE, LORA, Prepared
from usertune.core.errors import UserError
from usertune.inference import merge
from usertune.inference.engine import EngineSettings
from usertune.inference.engines.transformers import TransformersEngine
from usertune.inference.questions import questions_of
from usertune.models.loading import load_model, prepare_for_training
from usertune.models.recipe import LoraSettings


@pytest.fixture
def settings(prepared: Prepared, tmp_path: Path) -> EngineSettings:
    """Return the settings of an adapter that changes answers."""
    adapted: Any = prepare_for_training(load_model(BASE, "float32"), LoraSettings(**LORA))
    torch.manual_seed(0)
    for name, value in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(value, std=0.02)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    return EngineSettings(BASE, "lora", tmp_path / "adapter", "float32", NO_LIMITS, prepared.root, 30)


def answers(settings: EngineSettings, prepared: Prepared) -> dict[str, str]:
    engine = TransformersEngine(settings)
    batches = engine.answer(questions_of(prepared.samples("1", "2")), 5)
    return {question.sample["id"]: own.text for batch in batches for question, own in batch}


def test_a_merged_model_gives_the_answers_of_base_and_adapter(
    prepared: Prepared, settings: EngineSettings, tmp_path: Path
) -> None:
    found = merge.merge_adapter(settings, prepared.samples("1", "2"), tmp_path / "merged")
    assert (found["probes"], found["bound"]) == (4, 1e-3)
    assert found["largest_change"] < 1e-4
    expected = answers(settings, prepared)
    assert answers(replace(settings, mode="full", weights_folder=tmp_path / "merged"), prepared) == expected
    assert answers(replace(settings, mode="vanilla", weights_folder=None), prepared) != expected
    assert not list((tmp_path / "merged").glob("adapter*"))
    assert (tmp_path / "merged/tokenizer.json").is_file()


def test_in_bfloat16_the_change_is_within_its_bound(
    prepared: Prepared, settings: EngineSettings, tmp_path: Path
) -> None:
    found = merge.merge_adapter(replace(settings, dtype="bfloat16"), prepared.samples("1"), tmp_path / "merged")
    assert 0 < found["largest_change"] < found["bound"] == 0.5


def test_a_merged_model_that_says_something_else_is_refused(
    prepared: Prepared, settings: EngineSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = merge.load_for_prediction

    def spoiled(base: Path, mode: str, weights: Path | None, dtype: str) -> Any:
        model: Any = original(base, mode, weights, dtype)
        if mode == "full":
            model.lm_head.weight.data *= 1.5
        return model

    monkeypatch.setattr(merge, "load_for_prediction", spoiled)
    with pytest.raises(UserError, match=r"a log-probability moved by [0-9.]+, more than 0\.001; export the adapter"):
        merge.merge_adapter(settings, prepared.samples("1"), tmp_path / "merged")
