"""Which models answer an experiment's samples, and under which fingerprint their answers are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from usertune.core.errors import UserError
from usertune.inference.models_in_use import Found, models_in_use
from usertune.inference.recipe import PredictRecipe

RECIPE = PredictRecipe.parse(
    '{"dtype": "float32", "max_new_tokens": 64, "pixels": {"max": null, "min": null}, "step": "predict"}'
)
BASE = Found(Path("results/base_model/manifest.json"), {"output": "b" * 64, "folder": "/models/base"})
# What released versions computed for this recipe, this base model and these weights. Answers are found by it.
NAMESPACES = {
    "vanilla": "e8ab1cfc8128464d279a1ad053705ba4ba672a1723fa1f03ce6ff71a5b7963d5",
    "trained": "08380b3918eae74963e7c97652db9c5558b65acc1cf9f4e61dc42d1c676032a6",
}


def trained(base: str = "b" * 64, **keys: Any) -> Found:
    manifest = {
        "step": "train",
        "output": "1" * 64,
        "inputs": {"base_model": base},
        "mode": "lora",
        "weights_folder": "0123/weights",
    }
    return Found(Path("results/checkpoints/lora/manifest.json"), {**manifest, **keys})


def test_answers_of_earlier_releases_are_found() -> None:
    assert models_in_use(BASE, []).namespace(RECIPE, "") == NAMESPACES["vanilla"]
    assert models_in_use(BASE, [trained()]).namespace(RECIPE, "") == NAMESPACES["trained"]


def test_the_weights_lie_next_to_their_manifest() -> None:
    (model,) = models_in_use(BASE, [trained()]).models.values()
    assert model.weights_folder == Path("results/checkpoints/lora/0123/weights")
    assert models_in_use(BASE, [trained()]).mode == "lora"
    (model,) = models_in_use(BASE, []).models.values()
    assert (model.weights_folder, models_in_use(BASE, []).mode) == (None, "vanilla")


def test_weights_of_another_base_model_are_refused() -> None:
    with pytest.raises(UserError, match="trained on another base model than results"):
        models_in_use(BASE, [trained("c" * 64)])
