"""Estimates beside what torch, transformers and PEFT really do, on tiny models."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from tests.support.benchmarks import benchmark_module
from tests.unit.conftest import BASE
from usertune.checks.estimates.schedule import learning_rate
from usertune.models.model_shape import read_model_shape
from usertune.models.recipe import FreezeSettings, LoraSettings, Pixels

own = benchmark_module("memory_estimates")
# A margin for other releases of torch and transformers: these agree within 9 %.
WITHIN = 0.15


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("name", list(own.TINY))
def test_estimates_are_within_fifteen_percent_of_measured_peaks(
    name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root.manager, "disable", logging.WARNING)
    found = own.compare_tiny(name, mode, checkpointing=name == "narrow", longer=3 * (name == "wide"))
    assert found["ratio"] == pytest.approx(1, abs=WITHIN)


@pytest.mark.parametrize(
    "settings",
    [
        LoraSettings(rank=3, alpha=8, dropout=0),
        FreezeSettings(vision=True, merger=True),
        FreezeSettings(vision=True, merger=False),
        FreezeSettings(vision=False, merger=False),
    ],
    ids=str,
)
@pytest.mark.parametrize("differences", [{}, own.TINY["deep, large vocabulary"]], ids=["tied", "untied"])
def test_counted_weights_are_those_that_are_trained(
    settings: LoraSettings | FreezeSettings, differences: dict[str, object], tmp_path: Path
) -> None:
    from usertune.models.loading import load_model, prepare_for_training

    own.make_base(tmp_path / "base", differences)
    shape = read_model_shape(tmp_path / "base", Pixels())
    model = load_model(tmp_path / "base", "float32")
    assert shape.total == sum(weights.numel() for weights in model.parameters())
    trained = prepare_for_training(model, settings)
    assert shape.trained(settings) == sum(one.numel() for one in trained.parameters() if one.requires_grad)


@given(st.integers(28, 3000), st.integers(28, 3000), st.integers(10, 2000))
def test_visual_tokens_are_those_of_the_processor(width: int, height: int, most: int) -> None:
    from usertune.models.loading import load_processor

    pixels = Pixels(min=4 * 1024, max=most * 1024)
    global PROCESSOR
    PROCESSOR = PROCESSOR or load_processor(BASE, Pixels())
    images = PROCESSOR.image_processor
    images.size = {"shortest_edge": pixels.min, "longest_edge": pixels.max}
    counted = images.get_number_of_image_patches(height, width, {}) // images.merge_size**2
    assert read_model_shape(BASE, pixels).image_tokens(width, height) == counted


PROCESSOR = None


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup"])
@pytest.mark.parametrize(("steps", "warmup_steps"), [(90, 4), (1, 0), (10, 9)])
def test_learning_rates_are_those_of_transformers(kind: str, steps: int, warmup_steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    schedule = get_scheduler(kind, optimizer, warmup_steps, steps)
    for step in range(1, steps + 1):
        assert learning_rate(kind, 1e-4, step, warmup_steps, steps) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
