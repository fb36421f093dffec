"""Headers of safetensors files: which tensors a file holds, and whether the file is complete. Needs no torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError

Shapes = dict[str, tuple[int, ...]]

# The beginning of the pointer that git leaves in place of a large file that was not fetched.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# The safetensors library's own limit.
LONGEST_HEADER = 100_000_000
LENGTH_BYTES = 8
NAMES_SHOWN = 3
# Bits of each number format (https://github.com/huggingface/safetensors, `Dtype`).
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
# Tensors that a file may hold although no weight has that name, and why. Nothing else may be missing or unexpected;
# for a tensor with several names, one is enough.
MAY_BE_EXTRA = {
    r"(.*\.)?rotary_(pos_)?emb\.inv_freq": "computed from the configuration; older releases saved it",
}


def is_computed(name: str) -> bool:
    """Whether a file may hold a tensor of this name although no weight has it, see `MAY_BE_EXTRA`."""
    return any(re.fullmatch(pattern, name) for pattern in MAY_BE_EXTRA)


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is the pointer that git leaves in place of a file that Git LFS did not fetch.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def tensor_shapes(path: Path) -> Shapes:
    """Return name -> shape of a safetensors file's tensors, read from its header alone.

    Raises:
        UserError: the file cannot be read, is a Git LFS pointer, is not a safetensors file, or does not have the size
            that its header says.
    """
    try:
        with path.open("rb") as file:
            start = file.read(max(LENGTH_BYTES, len(LFS_POINTER)))
            if start == LFS_POINTER:
                raise UserError(f"{path}: a Git LFS pointer, not the file itself; fetch it with: git lfs pull")
            length = int.from_bytes(start[:LENGTH_BYTES], "little")
            size = path.stat().st_size
            if len(start) < LENGTH_BYTES or length > LONGEST_HEADER:
                raise UserError(f"{path}: not a safetensors file; fetch it again")
            file.seek(LENGTH_BYTES)
            header = file.read(length)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        if len(header) < length:
            raise UserError(f"{path}: cut short within its header ({size:,} bytes); fetch it again")
        tensors = json.loads(header)
        shapes, end = _described(tensors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: not a safetensors file (its header is damaged); fetch it again") from None
    expected = LENGTH_BYTES + length + end
    if size != expected:
        how = "cut short" if size < expected else "too long"
        raise UserError(f"{path}: {how}: {size:,} bytes, but its header says {expected:,}; fetch it again")
    return shapes


def _described(header: Mapping[str, Any]) -> tuple[Shapes, int]:
    """Return the shapes in a header, and the offset where the data end; ValueError if it contradicts itself."""
    shapes: Shapes = {}
    spans = []
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        shape = tuple(int(size) for size in tensor["shape"])
        begin, end = (int(offset) for offset in tensor["data_offsets"])
        if math.prod(shape) * _BITS[tensor["dtype"]] != (end - begin) * 8:
            raise ValueError(name)
        shapes[name] = shape
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise ValueError("gaps")
        position = end
    return shapes, position


def shapes_in(folder: Path) -> Shapes:
    """Return name -> shape of the tensors in a folder's safetensors files, from their headers.

    Raises:
        UserError: the folder has no such file, or one of them is damaged.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: no *.safetensors weights found")
    shapes: Shapes = {}
    for file in files:
        shapes |= tensor_shapes(file)
    return shapes


def differences(missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[str] = ()) -> str:
    """Describe how the tensors found differ from those needed; "" if they do not.

    Args:
        missing: names that are needed and were not found.
        unexpected: names that were found and are not needed.
        mismatched: texts with the name and both shapes.
    """
    kinds = {"missing": sorted(missing), "unexpected": sorted(unexpected), "of another shape": sorted(mismatched)}
    return "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names)


def _some(names: list[str]) -> str:
    rest = ", ..." if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + rest
