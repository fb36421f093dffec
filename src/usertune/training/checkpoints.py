"""Loads unsharded working checkpoints into sharded models, and sharded ones into unsharded models; checks both."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from enum import Enum, EnumType
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers.trainer import OPTIMIZER_NAME

from usertune.core.errors import UserError
from usertune.models.tensor_files import Shapes, shapes_in
from usertune.models.weights import check_shapes, is_finite

# Folders that accelerate writes and `torch.distributed.checkpoint` reads.
SHARDED_MODEL, SHARDED_OPTIMIZER = "pytorch_model_fsdp_0", "optimizer_0"
DESCRIPTION = ".metadata"
# accelerate saves one dictionary under this key, so each tensor's name starts with it.
STATE_PREFIX = "model."
_RECORDS = {
    "pathlib": {"PosixPath"},
    # Where Python 3.13 has it.
    "pathlib._local": {"PosixPath"},
    "torch": {"Size"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.serialization": {"_get_layout"},
}
_WHOLE = StateDictOptions(full_state_dict=True, strict=False)


def is_sharded(checkpoint: Path) -> bool:
    """Whether a working checkpoint was written by a sharded run."""
    return (checkpoint / SHARDED_MODEL).is_dir()


def check_checkpoint(model: nn.Module, checkpoint: Path) -> None:
    """Check that a working checkpoint holds exactly the weights of a model, or of its adapter.

    Args:
        model: the model to load the checkpoint into, sharded or not.
        checkpoint: the folder of the checkpoint, sharded or not.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape, or a file is damaged.
    """
    found = check_shards(checkpoint) if is_sharded(checkpoint) else shapes_in(checkpoint)
    check_shapes(found, model, checkpoint, _advice(checkpoint))


def _advice(checkpoint: Path) -> str:
    return f"delete the folder {checkpoint}; training then continues from an earlier checkpoint, or starts again"


def check_shards(checkpoint: Path) -> Shapes:
    """Check that the metadata of a sharded checkpoint contains only what torch writes there.

    torch unpickles this metadata without a check, so a planted file could run any code.

    Returns:
        Name -> shape of the model's tensors.

    Raises:
        UserError: the metadata is damaged, or contains something else.
    """
    shapes: Shapes = {}
    for folder in (SHARDED_OPTIMIZER, SHARDED_MODEL):
        file = checkpoint / folder / DESCRIPTION
        try:
            with file.open("rb") as content:
                tensors = _MetadataReader(content).load().state_dict_metadata
            shapes = {name.removeprefix(STATE_PREFIX): tuple(getattr(tensors[name], "size", ())) for name in tensors}
        # Unpickling bytes that are no pickle can raise any exception.
        except Exception as problem:
            raise UserError(
                f"{file}: not the metadata of a sharded checkpoint ({problem}); {_advice(checkpoint)}"
            ) from None
    return shapes


def weights_are_finite(checkpoint: Path) -> bool:
    """Whether all weights of a working checkpoint are finite; reads one tensor at a time.

    Raises:
        UserError: the metadata of a sharded checkpoint is damaged.
    """
    if is_sharded(checkpoint):
        check_shards(checkpoint)
        return all(is_finite(weights) for weights in _shards(checkpoint / SHARDED_MODEL))
    for file in sorted(checkpoint.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as content:
                if not all(is_finite(content.get_tensor(name)) for name in content.keys()):  # noqa: SIM118
                    return False
        except SafetensorError:
            return False
    return True


def _shards(folder: Path) -> Iterator[torch.Tensor]:
    for name, entry in FileSystemReader(folder).read_metadata().state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata) and entry.properties.dtype.is_floating_point:
            state = {name: torch.empty(entry.size, dtype=entry.properties.dtype)}
            distributed_checkpoint.load(state, checkpoint_id=folder, no_dist=True)
            yield state[name]


def _member(kind: Any, name: Any) -> Enum:
    """Return a member of an enumeration, which pickles name by ``getattr`` before Python 3.11.4; refuse all else."""
    if isinstance(kind, EnumType) and name in kind.__members__:
        return kind[name]
    raise pickle.UnpicklingError("it contains builtins.getattr")


class _MetadataReader(pickle.Unpickler):
    """Unpickles only the plain records that `torch.distributed.checkpoint` writes."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class by its name if it is one of these records."""
        if (module, name) == ("builtins", "getattr"):
            return _member
        number_format = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if number_format or name in _RECORDS.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it contains {module}.{name}")


def load_model_shards(model: nn.Module, checkpoint: Path) -> None:
    """Load a sharded checkpoint's weights into an unsharded model."""
    state = {"model": get_model_state_dict(model)}
    distributed_checkpoint.load(state, checkpoint_id=checkpoint / SHARDED_MODEL, no_dist=True)
    set_model_state_dict(model, state["model"])


def load_optimizer_shards(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Load a sharded checkpoint's optimizer state into the optimizer of an unsharded model."""
    state = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    distributed_checkpoint.load(state, checkpoint_id=checkpoint / SHARDED_OPTIMIZER, no_dist=True)
    set_optimizer_state_dict(model, optimizer, state["optimizer"])


def load_unsharded_model(model: nn.Module, checkpoint: Path) -> None:
    """Load an unsharded checkpoint's weights into a sharded model."""
    state: dict[str, Any] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        state |= load_file(file)
    set_model_state_dict(model, state, options=_WHOLE)


def load_unsharded_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Load an unsharded checkpoint's optimizer state, by weight number, into the optimizer of a sharded model."""
    saved = torch.load(checkpoint / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
    names = {weights: name.replace("_checkpoint_wrapped_module.", "") for name, weights in model.named_parameters()}
    state: dict[str, Any] = {}
    groups = []
    for group, saved_group in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        own = [names[weights] for weights in group["params"]]
        state |= {name: saved["state"][number] for name, number in zip(own, saved_group["params"], strict=True)}
        groups.append({**saved_group, "params": own})
    set_optimizer_state_dict(model, optimizer, {"state": state, "param_groups": groups}, options=_WHOLE)
