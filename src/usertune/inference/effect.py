"""Checks on a few samples that trained weights change the output of the base model.

An adapter can load without an error and have no effect; its answers would then be those of the base model.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import nn

from usertune.core.errors import UserError
from usertune.models.conversation import IGNORED_LABEL

logger = logging.getLogger(__name__)

PROBES = 4
# However small an adapter is, this factor makes its effect visible if it is connected.
STRONGER = 1e4

Batch = Mapping[str, torch.Tensor]


@torch.inference_mode()
def answer_log_probabilities(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the log-probability of each answer token of one sample, shape (answer tokens,), float32.

    Args:
        model: a Qwen3-VL model, with or without an adapter.
        batch: one sample, from `Collator.training_batch`.
    """
    next_labels = batch["labels"][0, 1:]
    positions = (next_labels != IGNORED_LABEL).nonzero().squeeze(1)
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    logits = model(**inputs, logits_to_keep=positions, use_cache=False).logits[0].float()
    return logits.log_softmax(-1).gather(1, next_labels[positions].unsqueeze(1)).squeeze(1)


def adapter_effect(model: PeftModel, batches: Sequence[Batch], folder: Path) -> dict[str, Any]:
    """Measure how much an adapter changes the log-probabilities of the expected answers' tokens.

    Args:
        model: the base model with the adapter, ready for generation.
        batches: one batch per sample, from `Collator.training_batch`.
        folder: the adapter's folder, for messages.

    Returns:
        ``probes`` (number of samples) and ``largest_change`` (of a token's log-probability, natural logarithm).

    Raises:
        UserError: the adapter is not zero and changes nothing, even scaled up; or its output is not finite.
    """
    with model.disable_adapter():
        plain = [answer_log_probabilities(model, batch) for batch in batches]
    largest = _largest_change(model, batches, plain)
    if not math.isfinite(largest):
        raise UserError(
            f"{folder}: with this adapter, the model's output is not finite; train with a lower learning rate"
        )
    if largest == 0 and not any(value.any() for name, value in model.named_parameters() if ".lora_B." in name):
        logger.warning(
            "%s: the adapter is still all zero, so its answers are those of the base model. Train longer, or with a "
            "higher learning rate",
            folder,
        )
    elif largest == 0:
        _check_connected(model, batches, plain, folder)
    else:
        logger.info("the adapter changes log-probabilities by up to %.3g on %d samples", largest, len(batches))
    return {"probes": len(batches), "largest_change": largest}


def _largest_change(model: nn.Module, batches: Sequence[Batch], plain: Sequence[torch.Tensor]) -> float:
    changes = [
        (answer_log_probabilities(model, batch) - before).abs().max()
        for batch, before in zip(batches, plain, strict=True)
    ]
    return float(torch.stack(changes).max())


def _check_connected(model: PeftModel, batches: Sequence[Batch], plain: Sequence[torch.Tensor], folder: Path) -> None:
    """Warn if the adapter has an effect only when scaled up; raise a `UserError` if it has none even then."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    before = [dict(layer.scaling) for layer in layers]
    for layer in layers:
        layer.scaling.update({name: scaling * STRONGER for name, scaling in layer.scaling.items()})
    stronger = _largest_change(model, batches, plain)
    for layer, scaling in zip(layers, before, strict=True):
        layer.scaling.update(scaling)
    if stronger == 0:
        raise UserError(
            f"{folder}: the adapter is not zero, but changes no log-probability of {len(batches)} samples: it has no "
            "effect (is its lora_alpha 0?); if usertune trained it, delete this folder to train the experiment again"
        )
    logger.warning(
        "%s: the adapter is too small to change a log-probability in this dtype, so its answers are those of the base "
        "model. Train longer, or with a higher learning rate",
        folder,
    )


def full_effect(base_folder: Path, folder: Path) -> dict[str, Any] | None:
    """Compare a full model with the base model, tensor by tensor up to the first difference; no sample is needed.

    Args:
        base_folder: the base model's folder.
        folder: the trained model's folder.

    Returns:
        None if they differ; otherwise ``probes`` and ``largest_change``, both 0.
    """
    base = _tensor_files(base_folder)
    for name, file in _tensor_files(folder).items():
        with safe_open(file, "pt") as trained:
            own = trained.get_tensor(name)
        if name not in base:
            return None
        with safe_open(base[name], "pt") as original:
            if not torch.equal(original.get_tensor(name).to(own.dtype), own):
                return None
    logger.warning(
        "%s: all weights are those of the base model, so the answers are too. Train longer, or with a higher learning "
        "rate",
        folder,
    )
    return {"probes": 0, "largest_change": 0.0}


def _tensor_files(folder: Path) -> dict[str, Path]:
    """Return tensor -> file; layers first, since the embedding is as large as several of them."""
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            found |= dict.fromkeys(tensors.keys(), file)
    return dict(sorted(found.items(), key=lambda item: (".layers." not in item[0], item[0])))
