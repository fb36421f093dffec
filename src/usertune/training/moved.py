"""How far training moved the weights. If it moved none, the answers are those of the base model."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from usertune.models.movement import HARDLY

logger = logging.getLogger(__name__)

# A sample is enough: AdamW moves every weight that has a gradient by about the learning rate.
WEIGHTS_OF_A_TENSOR = 65_536


class WeightSample:
    """An evenly spaced sample of every trained tensor, from before training.

    Args:
        weights: name and unsharded tensor, before training.
        dtype: dtype of the saved weights; smaller changes are lost in it.
    """

    def __init__(self, weights: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._before = {name: self._some(tensor) for name, tensor in weights}

    def change(self, weights: Iterable[tuple[str, torch.Tensor]]) -> float:
        """Return the norm of the change of the sampled weights, divided by their norm before training."""
        moved = total = 0.0
        for name, tensor in weights:
            if (before := self._before.get(name)) is not None:
                moved += float((self._some(tensor) - before).square().sum())
                total += float(before.square().sum())
        return _ratio(moved, total)

    def _some(self, tensor: torch.Tensor) -> torch.Tensor:
        flat = tensor.detach().flatten()
        every = -(-flat.numel() // WEIGHTS_OF_A_TENSOR)
        return flat[:: max(1, every)].to(self._dtype).to("cpu", torch.float64)


@torch.no_grad()
def adapter_change(model: nn.Module) -> float:
    """Return the norm of what the adapters add (scaling · B · A), divided by the norm of the adapted weights.

    Computed as the trace of (BᵀB)(AAᵀ), since the product B · A is as large as the weights.
    """
    moved = total = 0.0
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name in module.active_adapters:
                down, up = module.lora_A[name].weight.double(), module.lora_B[name].weight.double()
                moved += float(((up.T @ up) * (down @ down.T)).sum()) * module.scaling[name] ** 2
            total += float(torch.linalg.vector_norm(module.get_base_layer().weight, dtype=torch.float32)) ** 2
    return _ratio(moved, total)


def warn_if_hardly(change: float) -> None:
    """Log a warning if training moved the weights by less than `HARDLY`."""
    if change < HARDLY:
        logger.warning(
            "the weights did not move: their relative change is %.1e (below %.0e), so the answers will be those of the "
            "base model; raise training.learning_rate or epochs, or shorten the warm-up",
            change, HARDLY,
        )  # fmt: skip


def _ratio(moved: float, total: float) -> float:
    return float(f"{math.sqrt(max(0.0, moved) / total):.3g}") if total else 0.0
