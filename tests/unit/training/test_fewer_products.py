"""What training leaves out: passes over activations that adapters do not need, and positions that nobody reads.

Compared with PEFT's own layers, and with a last layer that computes all positions.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.autograd import gradcheck

from tests.support.fine_tuning import batch_of
from tests.unit.conftest import BASE, LORA, Prepared
from usertune.models.families.catalogue import family_of
from usertune.models.loading import load_model, prepare_for_training
from usertune.models.recipe import LoraSettings
from usertune.training.fused_adapters import AdaptedProduct, fuse_adapters
from usertune.training.last_layer import LastLayer
from usertune.training.sample_dropout import draw_by_sample
from usertune.training.trainer import answer_loss_sum

FAMILY = family_of(BASE)
SAMPLES, STEP = (4, 7, 9), 3


def _batch(prepared: Prepared) -> dict[str, Any]:
    return batch_of(prepared, prepared.samples("11")[: len(SAMPLES)])


def _adapted(tokens: int, dropout: float = 0.2, dtype: str = "float32") -> Any:
    """Return a model in training, with adapters that have an effect, and with masks drawn for a micro-batch."""
    torch.manual_seed(0)
    model = prepare_for_training(load_model(BASE, dtype), LoraSettings(**LORA | {"dropout": dropout})).train()
    draw_by_sample(model, 0).begin(torch.tensor(SAMPLES), tokens, STEP)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.05)
    return model


def _gradients(model: nn.Module, batch: Any, *last_layer: LastLayer) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = answer_loss_sum(model, batch, *last_layer)
    loss.backward()
    return loss.item(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def _assert_equal(found: Any, expected: Any, share: float) -> None:
    """Losses and gradients are equal but for a share of the largest gradient of each weight."""
    assert found[0] == pytest.approx(expected[0], rel=share)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        assert value.abs().max() > 0, name
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=share * float(value.abs().max()), msg=name)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("dropped", [True, False])
def test_the_gradients_of_an_adapted_product_are_those_of_differences(biased: bool, dropped: bool) -> None:
    torch.manual_seed(0)

    def some(*shape: int, trained: bool = True) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=trained)

    weight, bias = some(5, 4, trained=False), some(5, trained=False) if biased else None
    inputs = (some(2, 3, 4), some(2, 3, 4) if dropped else None, weight, bias, some(2, 4), some(5, 2))
    assert gradcheck(AdaptedProduct.apply, inputs)


@pytest.mark.parametrize("dropout", [0.2, 0.0])
def test_fused_adapters_train_as_pefts_own(prepared: Prepared, dropout: float) -> None:
    batch = _batch(prepared)
    model = _adapted(batch["input_ids"].shape[1], dropout)
    expected = _gradients(model, batch)
    fuse_adapters(model)
    _assert_equal(_gradients(model, batch), expected, 1e-5)
    assert expected[0] != _gradients(_adapted(batch["input_ids"].shape[1], 0.6), batch)[0], "adapters have an effect"


def test_fused_adapters_are_as_exact_in_bfloat16_as_pefts_own(prepared: Prepared) -> None:
    batch = _batch(prepared)
    model = _adapted(batch["input_ids"].shape[1], dtype="bfloat16")
    with torch.autocast("cpu", torch.bfloat16):
        pefts = _gradients(model, batch)[1]
        fuse_adapters(model)
        fused = _gradients(model, batch)[1]
    exact = _gradients(model.float(), batch)[1]

    def error(found: dict[str, torch.Tensor]) -> float:
        return sum(float((found[name] - exact[name]).square().sum()) for name in exact) ** 0.5

    # Which of the two is nearer is chance.
    assert 0 < error(fused) < 2 * error(pefts)


def test_adapters_that_are_off_or_merged_stay_so_and_other_layers_keep_their_way() -> None:
    base = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model: Any = get_peft_model(base, LoraConfig(r=2, target_modules=["0"], init_lora_weights=False))  # type: ignore[arg-type]
    with_bias: Any = get_peft_model(
        nn.Sequential(nn.Linear(4, 4)),  # type: ignore[arg-type]
        LoraConfig(r=2, target_modules=["0"], init_lora_weights=False, lora_bias=True),
    )
    inputs = torch.randn(3, 4)
    for one in (model, with_bias):
        plain, expected = one.get_base_model()(inputs), one(inputs)
        fuse_adapters(one)
        torch.testing.assert_close(one(inputs), expected)
        with one.disable_adapter():
            assert not torch.allclose(one(inputs), expected)
        one.merge_adapter()
        torch.testing.assert_close(one(inputs), expected)
        one.unmerge_adapter()
        assert torch.equal(plain, expected)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_last_layer_computes_only_positions_with_labels(prepared: Prepared, checkpointing: bool) -> None:
    batch = _batch(prepared)
    labels = int((batch["labels"][:, 1:] != -100).any(dim=0).sum())
    tokens = batch["input_ids"].shape[1]
    model = _adapted(tokens)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    expected = _gradients(model, batch)
    last_layer = LastLayer(model, FAMILY)
    lengths: dict[str, set[int]] = {}
    for name, module in model.named_modules():
        if name.endswith("down_proj"):
            module.register_forward_hook(
                lambda _, inputs, __, name=name: lengths.setdefault(name, set()).add(inputs[0].shape[1])
            )
    _assert_equal(_gradients(model, batch, last_layer), expected, 1e-5)
    assert [*lengths.values()] == [{tokens}] * (len(lengths) - 1) + [{labels}]
    last_layer.remove()
    lengths.clear()
    found = _gradients(model, batch)
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], value) for name, value in expected[1].items())
    assert [*lengths.values()] == [{tokens}] * len(lengths)


def test_many_positions_or_none_are_computed_as_all(prepared: Prepared) -> None:
    batch = _batch(prepared)
    everywhere = {**batch, "labels": batch["input_ids"]}
    nowhere = {**batch, "labels": torch.full_like(batch["input_ids"], -100)}
    model = _adapted(batch["input_ids"].shape[1], dropout=0.0)
    expected = _gradients(model, everywhere)
    last_layer = LastLayer(model, FAMILY)
    found = _gradients(model, everywhere, last_layer)
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], value) for name, value in expected[1].items())
    # Of a process that has no samples of its own.
    assert _gradients(model, nowhere, last_layer)[0] == 0


def test_a_last_layer_with_other_attention_is_left_as_it_is(prepared: Prepared) -> None:
    batch = _batch(prepared)
    model = load_model(BASE, "float32")
    model.set_attn_implementation("eager")
    expected = answer_loss_sum(model, batch)
    last_layer = LastLayer(model, FAMILY)
    assert torch.equal(answer_loss_sum(model, batch, last_layer), expected)
    last_layer.remove()
