"""Dropout that is drawn for each sample by itself, so that it is the same however samples are put together.

torch's own dropout draws one mask for a whole micro-batch: with other micro-batches, or another number of processes,
the same training would train other adapters. Here a mask is a function of the training's seed, the optimizer step, the
sample, the layer, the token's position and the feature. Padding has no part in it, and activations that are computed
again for gradient checkpointing get the same mask.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

_GOLDEN = 0x9E3779B9


@dataclass
class Draw:
    """What all layers of a model need to draw their masks; the trainer sets it before each micro-batch.

    Args:
        seed: seed of the training.
    """

    seed: int
    positions: torch.Tensor | None = None
    """A pseudo-random number for every sample and position (samples, tokens), int32."""
    features: dict[tuple[int, torch.device], torch.Tensor] = field(default_factory=dict)

    def begin(self, numbers: torch.Tensor, tokens: int, step: int) -> None:
        """Choose the samples of the micro-batch that comes.

        Args:
            numbers: numbers of the samples, on the device of the computation.
            tokens: length of the padded samples; sample and position count from its beginning.
            step: optimizer steps before this one.
        """
        own = _mixed(numbers.to(torch.int32) + _int32(_mixed_number(self.seed * 0x85EBCA6B + step)))
        offsets = torch.arange(tokens, device=numbers.device, dtype=torch.int32) * _int32(_GOLDEN)
        self.positions = _mixed(own[:, None] + offsets)

    def of_features(self, count: int, device: torch.device) -> torch.Tensor:
        """Return an odd pseudo-random number for each of a layer's input features."""
        if (count, device) not in self.features:
            self.features[count, device] = _mixed(torch.arange(count, device=device, dtype=torch.int32) + 1) | 1
        return self.features[count, device]


class SampleDropout(nn.Module):
    """Sets a share of the inputs to zero in training, and scales the others up.

    Args:
        share: probability of each input to be zero.
        layer: number of the layer that this stands before.
        draw: what all layers share.
    """

    def __init__(self, share: float, layer: int, draw: Draw) -> None:
        super().__init__()
        self.share = share
        self._constant = _int32(_mixed_number(layer + 1))
        self._below = round(share * 2**32) - 2**31
        self._draw = draw

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs of shape (samples, tokens, features) with some of them zero."""
        if not self.training:
            return inputs
        positions = self._draw.positions
        if positions is None or positions.shape != inputs.shape[:2]:
            raise RuntimeError(f"dropout was set up for another micro-batch than one of shape {tuple(inputs.shape)}")
        rows = (positions ^ self._constant) * _int32(0x7FEB352D)
        rows = ((rows ^ ((rows >> 15) & 0x1FFFF)) * _int32(0x846CA68B)) | 1
        # Multiply-shift hashing (Dietzfelbinger et al. 1997): the upper bits of a product of odd numbers.
        dropped = rows[:, :, None] * self._draw.of_features(inputs.shape[2], inputs.device) < self._below
        return (inputs * (1 / (1 - self.share))).masked_fill(dropped, 0)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows of it."""
        return f"share={self.share}"


def draw_by_sample(model: nn.Module, seed: int) -> Draw:
    """Let the dropout of a model's adapters be drawn by sample; return what the trainer must set.

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
