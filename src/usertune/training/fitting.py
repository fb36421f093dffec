"""Chooses the micro-batch size and whether activations are recomputed, by the memory that activations need.

One or two forward passes of the longest samples count the bytes that the backward pass would need, and keep none.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from usertune.core.errors import UserError
from usertune.core.files import read_json, write_json
from usertune.models.loading import device, on_device
from usertune.runtime.memory import free_memory
from usertune.training.batches import NUMBERS
from usertune.training.inputs import FineTuning
from usertune.training.last_layer import LastLayer
from usertune.training.recipe import Execution
from usertune.training.sample_dropout import Draw
from usertune.training.trainer import answer_loss_sum

logger = logging.getLogger(__name__)

# In the working folder: a resumed training computes as it began, so that it ends with the same weights.
FILE = "fitting.json"
# A micro-batch of this many tokens keeps a device busy (docs/decisions.md, 2026-11-30).
BUSY_TOKENS = {"cpu": 2048, "cuda": 4096}
# Of the free memory, for activations. The rest is for what a layer computes on its way, and for fragments.
ACTIVATIONS_SHARE = 0.7
# Of the activations, at most, that recomputation leaves: inputs of the layers, and one layer.
LEFT_BY_CHECKPOINTING = 1 / 4
# Float32 gradient and two moments of AdamW.
BYTES_OF_TRAINED = 12


class Needs(NamedTuple):
    """Tokens of a batch, the bytes of its activations, and the number of trained weights."""

    tokens: int
    bytes: int
    trained: int


def fitted(
    run: FineTuning,
    work: Path,
    model: nn.Module,
    last_layer: LastLayer,
    dropout: Draw,
    batch_of: Callable[[int], Mapping[str, Any]],
) -> Execution:
    """Return the execution settings of a training, with numbers where they were ``auto``.

    Args:
        run: the training.
        work: its working folder, which remembers the choice.
        model: the model to train.
        last_layer: its last layer.
        dropout: state of its adapters' dropout.
        batch_of: makes a batch, on the CPU, of that many of the longest samples.
    """
    execution = run.execution
    if execution.micro_batch_size != "auto" and execution.gradient_checkpointing != "auto":
        return execution
    if run.processes.world_size > 1:
        # Each process would choose for itself, and a sharded model cannot be called alone.
        found = {"micro_batch_size": 1, "gradient_checkpointing": True}
    elif remembered := _remembered(work, run.training.batch_size):
        found = remembered
    else:
        found = _choose(run, partial(_probe, run, model.to(device()), last_layer, dropout, batch_of))
        write_json(work / FILE, found)
    asked = {key: value for key, value in execution if key in found and value != "auto"}
    return execution.model_copy(update={**found, **asked})


def _remembered(work: Path, batch_size: int) -> dict[str, Any] | None:
    """Return the choice of an earlier attempt; None if there is none, or a damaged one."""
    try:
        note = read_json(work / FILE)
    except (OSError, UserError):
        return None
    size, checkpointing = note.get("micro_batch_size"), note.get("gradient_checkpointing")
    if type(size) is not int or type(checkpointing) is not bool or size < 1 or batch_size % size:
        return None
    return {"micro_batch_size": size, "gradient_checkpointing": checkpointing}


def _probe(
    run: FineTuning,
    model: nn.Module,
    last_layer: LastLayer,
    dropout: Draw,
    batch_of: Callable[[int], Mapping[str, Any]],
    count: int,
) -> Needs:
    batch = on_device(batch_of(count))
    length = batch["input_ids"].shape[1]
    dropout.begin(batch[NUMBERS], length, 0)
    model.train()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Needs(length, activation_bytes(model, batch, run.recipe.dtype, last_layer), trained)


def _choose(run: FineTuning, probe: Callable[[int], Needs]) -> dict[str, Any]:
    share, asked = run.training.batch_size, run.execution
    length, first, trained = probe(1)
    sizes = [size for size in range(1, share + 1) if share % size == 0 and size * length <= BUSY_TOKENS[device().type]]
    sizes = (sizes or [1]) if asked.micro_batch_size == "auto" else [asked.micro_batch_size]
    # What does not grow with the samples, such as autocast's copies of weights, is in both.
    more = probe(2).bytes - first if sizes[-1] > 1 else 0
    free = _free() - BYTES_OF_TRAINED * trained
    for size in reversed(sizes):
        needed = first + (size - 1) * more
        fits = needed <= ACTIVATIONS_SHARE * free
        checkpointing = not fits if asked.gradient_checkpointing == "auto" else asked.gradient_checkpointing
        if fits or size == sizes[0] or (checkpointing and LEFT_BY_CHECKPOINTING * needed <= ACTIVATIONS_SHARE * free):
            break
    logger.info(
        "activations of the longest micro-batch (%d of %d samples) need %.2f GiB, %.1f GiB are free: "
        "micro_batch_size %d, gradient_checkpointing %s",
        size, share, needed / 2**30, free / 2**30, size, str(checkpointing).lower(),
    )  # fmt: skip
    return {"micro_batch_size": size, "gradient_checkpointing": checkpointing}


def _free() -> int:
    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else free_memory()


def activation_bytes(
    model: nn.Module, batch: Mapping[str, Any], dtype: str, last_layer: LastLayer | None = None
) -> int:
    """Return how many bytes the backward pass of a batch's loss would need, beside the weights.

    Args:
        model: the model in training mode, on its device.
        batch: from `Collator.training_batch`, on the same device.
        dtype: number format in which training computes, "float32" or "bfloat16".
        last_layer: as `answer_loss_sum` takes it.
    """
    kept_anyway = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    alive: dict[int, weakref.ref[Any]] = {}
    total = 0

    def count(tensor: torch.Tensor) -> int:
        nonlocal total
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in kept_anyway and key not in alive:
            total += storage.nbytes()
            # The tensor is not kept, so its place may be taken by another one, which counts too.
            alive[key] = weakref.ref(storage, lambda _: alive.pop(key, None))
        return 0

    autocast = torch.autocast(device().type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda _: torch.empty(0)), autocast:
        answer_loss_sum(model, batch, last_layer)
    return total
