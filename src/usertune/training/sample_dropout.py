"""Dropout drawn for each sample, so that masks do not depend on how samples are batched.

torch's own dropout draws one mask for a micro-batch, so another micro-batch size or world size would change the trained
adapters. Here a mask is a function of the training's seed, the optimizer step, the sample, the layer, the token's
position and the feature. Padding has no influence, and activations that gradient checkpointing recomputes get the same
mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

_GOLDEN = 0x9E3779B9


@dataclass
class Draw:
    """What all layers need to draw their masks; the trainer sets it before each micro-batch.

    Args:
        seed: seed of the training.
    """

    seed: int
    positions: torch.Tensor | None = None
    """A pseudo-random number for every sample and position, shape (samples, tokens), int32."""
    features: dict[tuple[int, torch.device], torch.Tensor] = field(default_factory=dict)

    def begin(self, numbers: torch.Tensor, tokens: int, step: int) -> None:
        """Set the samples of the next micro-batch.

        Args:
            numbers: numbers of the samples, shape (samples,), on the model's device.
            tokens: length of the padded samples; positions count from the start of the padded sample.
            step: number of optimizer steps before this one.
        """
        own = _mixed(numbers.to(torch.int32) + _int32(_mixed_number(self.seed * 0x85EBCA6B + step)))
        offsets = torch.arange(tokens, device=numbers.device, dtype=torch.int32) * _int32(_GOLDEN)
        self.positions = _mixed(own[:, None] + offsets)

    def of_features(self, count: int, device: torch.device) -> torch.Tensor:
        """Return an odd pseudo-random number for each input feature of a layer, shape (count,), int32."""
        if (count, device) not in self.features:
            self.features[count, device] = _mixed(torch.arange(count, device=device, dtype=torch.int32) + 1) | 1
        return self.features[count, device]


class SampleDropout(nn.Module):
    """In training, sets a share of the inputs to zero and scales the others up.

    Args:
        share: probability that an input is set to zero.
        layer: number of the layer that this precedes.
        draw: state that all layers share.
    """

    def __init__(self, share: float, layer: int, draw: Draw) -> None:
        super().__init__()
        self.share = share
        self._constant = _int32(_mixed_number(layer + 1))
        self._below = round(share * 2**32) - 2**31
        self._draw = draw
        self.positions: Callable[[], torch.Tensor | None] = lambda: None
        """Returns the positions that the inputs have, if they are not all of the micro-batch."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the inputs, shape (samples, tokens, features), with some of them zero."""
        if not self.training:
            return inputs
        positions, narrow = self._draw.positions, self.positions()
        if positions is not None and narrow is not None:
            positions = positions[:, narrow]
        if positions is None or positions.shape != inputs.shape[:2]:
            raise RuntimeError(
                f"dropout was set up for another micro-batch, not for inputs of shape {tuple(inputs.shape)}"
            )
        rows = (positions ^ self._constant) * _int32(0x7FEB352D)
        rows = ((rows ^ ((rows >> 15) & 0x1FFFF)) * _int32(0x846CA68B)) | 1
        # Multiply-shift hashing (Dietzfelbinger et al. 1997): uses the upper bits of a product of odd numbers.
        dropped = rows[:, :, None] * self._draw.of_features(inputs.shape[2], inputs.device) < self._below
        return (inputs * (1 / (1 - self.share))).masked_fill(dropped, 0)

    def extra_repr(self) -> str:
        """Return the settings that ``print(model)`` shows."""
        return f"share={self.share}"


def draw_by_sample(model: nn.Module, seed: int) -> Draw:
    """Replace the dropout of a model's adapters by `SampleDropout`; return the state that the trainer must set.

    Args:
        model: a model with adapters, or without.
        seed: seed of the training.
    """
    draw = Draw(seed)
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for number, layer in enumerate(layers):
        for name, dropout in layer.lora_dropout.items():
            if isinstance(dropout, nn.Dropout):
                layer.lora_dropout[name] = SampleDropout(dropout.p, number, draw)
    return draw


def _mixed(numbers: torch.Tensor) -> torch.Tensor:
    """Return a hash of int32 numbers (lowbias32 of C. Wellons' hash-prospector); products wrap around."""
    numbers = (numbers ^ ((numbers >> 16) & 0xFFFF)) * _int32(0x7FEB352D)
    numbers = (numbers ^ ((numbers >> 15) & 0x1FFFF)) * _int32(0x846CA68B)
    return numbers ^ ((numbers >> 16) & 0xFFFF)


def _mixed_number(number: int) -> int:
    return int(_mixed(torch.tensor(_int32(number % 2**32), dtype=torch.int32)))


def _int32(number: int) -> int:
    """Return the signed number with the same lower 32 bits."""
    return (number + 2**31) % 2**32 - 2**31
