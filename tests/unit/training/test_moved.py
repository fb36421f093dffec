"""How far training moved the weights is the relative norm of the change; none is reported."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from tests.unit.conftest import BASE, LORA
from usertune.models.loading import load_model, prepare_for_training
from usertune.models.recipe import LoraSettings
from usertune.training.moved import WeightSample, adapter_change, warn_if_hardly


def _layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(300, 300)


def test_the_change_of_a_few_tensors_is_that_of_all_their_weights() -> None:
    layer = _layer()
    before = WeightSample(layer.named_parameters(), torch.float32)
    assert before.change(layer.named_parameters()) == 0.0
    with torch.no_grad():
        for value in layer.parameters():
            value.mul_(1.01)
    assert before.change(layer.named_parameters()) == pytest.approx(0.01, rel=1e-2)


def test_a_change_that_the_saved_format_does_not_keep_is_none() -> None:
    layer = _layer()
    for value in layer.parameters():
        value.data = value.data.bfloat16().float()
    saved, exact = (WeightSample(layer.named_parameters(), dtype) for dtype in (torch.bfloat16, torch.float32))
    with torch.no_grad():
        layer.weight.mul_(1 + 1e-5)
    assert saved.change(layer.named_parameters()) == 0.0
    assert exact.change(layer.named_parameters()) == pytest.approx(1e-5, rel=0.1)


def test_an_adapter_counts_by_what_it_adds_to_the_weights() -> None:
    base = load_model(BASE, "float32")
    adapted = prepare_for_training(base, LoraSettings(**LORA))
    assert adapter_change(adapted) == 0.0, "B is zero"
    torch.manual_seed(0)
    for name, value in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.01)
    moved = total = 0.0
    for module in adapted.modules():
        if hasattr(module, "get_delta_weight") and "default" in getattr(module, "lora_A", {}):
            moved += float(module.get_delta_weight("default").detach().square().sum())
            total += float(module.get_base_layer().weight.detach().square().sum())
    assert adapter_change(adapted) == pytest.approx((moved / total) ** 0.5, rel=1e-2)


def test_weights_that_did_not_move_are_reported_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "usertune"):
        warn_if_hardly(1e-5)
        assert not caplog.messages
        warn_if_hardly(0.0)
    assert caplog.messages[0].startswith("the weights did not move: their relative change is 0.0e+00 (below 1e-06)")
