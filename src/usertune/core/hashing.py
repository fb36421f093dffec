"""Canonical JSON, and digests of values, files and folders."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20
# Key of a training's recipe for steps whose weights are kept besides the result.
KEPT_STEPS = "keep_checkpoints"
NOT_IN_FINGERPRINT = frozenset({"upstream", "provenance", "rebuild", KEPT_STEPS})


def canonical_json(value: Any) -> str:
    """Return the canonical JSON of ``value``: sorted keys, no spaces, no NaN.

    Equal values give equal texts, regardless of the order of dict keys, so the text can be compared and hashed.
    Similar to RFC 8785, but floats are written by Python's shortest repr.

    Raises:
        ValueError: ``value`` holds NaN or an infinity.
        TypeError: ``value`` holds something that JSON cannot express.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


def step_fingerprint(recipe: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """Return the fingerprint of a step's result: the digest of its recipe and its inputs.

    Args:
        recipe: the step's recipe. ``upstream`` is left out because it describes how the inputs are made, not what
            they are; ``provenance`` and ``rebuild`` are left out because they only say when to run the step again, and
            `KEPT_STEPS` because it does not change the result.
        inputs: role -> digest of the input's content, or, for several inputs, name -> digest.
    """
    own = {key: value for key, value in recipe.items() if key not in NOT_IN_FINGERPRINT}
    return digest({"recipe": own, "inputs": dict(inputs)})


def digest_bytes(content: bytes) -> str:
    """Return the SHA-256 (64 hex digits) of ``content``."""
    return hashlib.sha256(content).hexdigest()


def digest_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 (64 hex digits) of a file's bytes, read in chunks of 1 MiB."""
    total = hashlib.sha256()
    with open(path, "rb") as handle:
        while piece := handle.read(CHUNK_BYTES):
            total.update(piece)
    return total.hexdigest()


def digest_folder(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return ``{relative path: SHA-256}`` for every visible file below ``folder``, in sorted order.

    Hidden files and folders, which editors and download tools create, are left out.
    """
    root = Path(folder)
    return {name: digest_file(root / name) for name in list_files(root)}


def file_states(folder: str | os.PathLike[str], names: Iterable[str]) -> dict[str, list[int]]:
    """Return ``{name: [size in bytes, modification time in ns]}`` of some files of a folder.

    Raises:
        FileNotFoundError: a file is missing.
    """
    found = {name: (Path(folder) / name).stat() for name in names}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}


def list_files(folder: str | os.PathLike[str]) -> list[str]:
    """Return the sorted POSIX paths, relative to ``folder``, of the visible files below it."""
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                found.append(Path(parent, name).relative_to(folder).as_posix())
    return sorted(found)
