"""Working checkpoints of the other layout: whole ones for a sharded run, and sharded ones for a run that is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers.trainer import OPTIMIZER_NAME

# Folders that accelerate writes; `torch.distributed.checkpoint` reads them.
SHARDED_MODEL, SHARDED_OPTIMIZER = "pytorch_model_fsdp_0", "optimizer_0"
_WHOLE = StateDictOptions(full_state_dict=True, strict=False)


def is_sharded(checkpoint: Path) -> bool:
    """Whether a working checkpoint was written by a sharded run."""
    return (checkpoint / SHARDED_MODEL).is_dir()


def load_model_shards(model: nn.Module, checkpoint: Path) -> None:
    """Load a sharded checkpoint's weights into a whole model."""
    state = {"model": get_model_state_dict(model)}
    distributed_checkpoint.load(state, checkpoint_id=checkpoint / SHARDED_MODEL, no_dist=True)
    set_model_state_dict(model, state["model"])


def load_optimizer_shards(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Load a sharded checkpoint's optimizer state into the optimizer of a whole model."""
    state = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    distributed_checkpoint.load(state, checkpoint_id=checkpoint / SHARDED_OPTIMIZER, no_dist=True)
    set_optimizer_state_dict(model, optimizer, state["optimizer"])


def load_whole_model(model: nn.Module, checkpoint: Path) -> None:
    """Load a whole checkpoint's weights into a sharded model."""
    state: dict[str, Any] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        state |= load_file(file)
    set_model_state_dict(model, state, options=_WHOLE)


def load_whole_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Load a whole checkpoint's optimizer state, which counts the weights, into the optimizer of a sharded model."""
    saved = torch.load(checkpoint / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
    names = {weights: name.replace("_checkpoint_wrapped_module.", "") for name, weights in model.named_parameters()}
    state: dict[str, Any] = {}
    groups = []
    for group, saved_group in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        own = [names[weights] for weights in group["params"]]
        state |= {name: saved["state"][number] for name, number in zip(own, saved_group["params"], strict=True)}
        groups.append({**saved_group, "params": own})
    set_optimizer_state_dict(model, optimizer, {"state": state, "param_groups": groups}, options=_WHOLE)
