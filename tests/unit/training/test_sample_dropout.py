"""Dropout depends on the sample, not on the rest of the micro-batch."""

from __future__ import annotations

import pytest
import torch

from tests.unit.conftest import BASE, LORA
from usertune.models.loading import load_model, prepare_for_training
from usertune.models.recipe import LoraSettings
from usertune.training.sample_dropout import Draw, SampleDropout, draw_by_sample

FEATURES, TOKENS = 256, 40


def _kept(numbers: list[int], tokens: int = TOKENS, step: int = 0, layer: int = 0, seed: int = 0) -> torch.Tensor:
    """Return where inputs are kept (samples, tokens, features), of a share of 0.25 that is dropped."""
    draw = Draw(seed)
    draw.begin(torch.tensor(numbers), tokens, step)
    found: torch.Tensor = SampleDropout(0.25, layer, draw)(torch.ones(len(numbers), tokens, FEATURES))
    assert found.unique().tolist() == pytest.approx([0, 4 / 3])
    return found > 0


def test_a_samples_mask_is_the_same_alone_and_among_others_and_with_padding() -> None:
    together = _kept([7, 3, 12])
    for row, number in enumerate([7, 3, 12]):
        assert torch.equal(_kept([number])[0], together[row])
    assert torch.equal(_kept([3], tokens=TOKENS + 9)[0, :TOKENS], together[1])


def test_masks_differ_and_drop_their_share_everywhere() -> None:
    masks = {
        "one": _kept([7]),
        "sample": _kept([8]),
        "step": _kept([7], step=1),
        "layer": _kept([7], layer=1),
        "seed": _kept([7], seed=1),
    }
    masks["position"] = masks["one"].roll(1, dims=1)
    masks["feature"] = masks["one"].roll(1, dims=2)
    count = TOKENS * FEATURES
    for name, mask in masks.items():
        # Four standard errors.
        assert float(mask.float().mean()) == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / count) ** 0.5), name
        if name != "one":
            both = float((mask & masks["one"]).float().mean())
            assert both == pytest.approx(0.75**2, abs=4 * (0.75**2 * (1 - 0.75**2) / count) ** 0.5), name
    many = _kept(list(range(200)))
    error = (0.75 * 0.25 / (200 * TOKENS)) ** 0.5
    assert float((many.float().mean(dim=(0, 1)) - 0.75).abs().max()) < 5 * error, "no feature is favoured"


def test_every_dropout_of_an_adapter_is_replaced_and_none_is_in_evaluation() -> None:
    model = prepare_for_training(load_model(BASE, "float32"), LoraSettings(**LORA))
    state = set(model.state_dict())
    draw_by_sample(model, 0)
    assert not [name for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout) and module.p]
    replaced = [module for module in model.modules() if isinstance(module, SampleDropout)]
    assert len(replaced) == 7 * len(model.base_model.model.model.language_model.layers)
    assert set(model.state_dict()) == state
    ones = torch.ones(1, 2, 3)
    assert replaced[0].eval()(ones) is ones
    with pytest.raises(RuntimeError, match="another micro-batch"):
        replaced[0].train()(ones)
