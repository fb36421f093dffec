"""Sharded working checkpoints are checked before torch unpickles their description."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path, PosixPath
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata

from usertune.core.errors import UserError
from usertune.training.checkpoints import DESCRIPTION, SHARDED_MODEL, SHARDED_OPTIMIZER, check_shards, is_sharded


class _Call:
    """Is pickled as a call, which unpickling makes."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.arguments


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint as torch writes it, of tensors in several number formats and of other values."""
    weights = {str(dtype): torch.ones(3, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.int64)}
    optimizer = {"step": torch.tensor(3.0), "lr": 0.1, "betas": (0.9, 0.99), "name": "AdamW", "fused": None}
    folder = tmp_path / "checkpoint-3"
    for state, name in ((weights, SHARDED_MODEL), (optimizer, SHARDED_OPTIMIZER)):
        state = {"model": state} if name == SHARDED_MODEL else state
        distributed_checkpoint.save(state, checkpoint_id=folder / name, no_dist=True)
    return folder


def test_what_torch_writes_passes(checkpoint: Path) -> None:
    assert is_sharded(checkpoint)
    assert check_shards(checkpoint) == {f"torch.{kind}": (3,) for kind in ("float32", "bfloat16", "int64")}


@pytest.mark.parametrize("folder", [SHARDED_MODEL, SHARDED_OPTIMIZER])
def test_a_harmful_description_is_refused_and_not_executed(checkpoint: Path, tmp_path: Path, folder: str) -> None:
    executed = tmp_path / "executed"
    harmful = pickle.dumps(_Call(os.mkdir, str(executed)))
    (checkpoint / folder / DESCRIPTION).write_bytes(harmful)
    with pytest.raises(UserError, match=r"it contains (posix|os)\.mkdir.*delete the folder"):
        check_shards(checkpoint)
    assert not executed.exists()
    pickle.loads(harmful)
    assert executed.exists(), "without the check it would have been"


def test_members_of_enumerations_may_be_attributes(checkpoint: Path) -> None:
    # As Python before 3.11.4 pickles them.
    format_of_memory: Any = _Call(getattr, _MEM_FORMAT_ENCODING, "TORCH_PRESERVE_FORMAT")
    (checkpoint / SHARDED_MODEL / DESCRIPTION).write_bytes(pickle.dumps(Metadata({"model.it": format_of_memory})))
    assert check_shards(checkpoint) == {"it": ()}


@pytest.mark.parametrize(
    ("owner", "name"), [(PosixPath, "unlink"), (_MEM_FORMAT_ENCODING, "__class__"), (PosixPath("/"), "parent")]
)
def test_other_attributes_are_refused(checkpoint: Path, owner: object, name: str) -> None:
    (checkpoint / SHARDED_MODEL / DESCRIPTION).write_bytes(pickle.dumps(_Call(getattr, owner, name)))
    with pytest.raises(UserError, match=r"it contains builtins\.getattr"):
        check_shards(checkpoint)


@pytest.mark.parametrize("content", [b"", b"no pickle"])
def test_a_damaged_description_is_named(checkpoint: Path, content: bytes) -> None:
    (checkpoint / SHARDED_MODEL / DESCRIPTION).write_bytes(content)
    with pytest.raises(UserError, match=DESCRIPTION.replace(".", r"\.")):
        check_shards(checkpoint)
