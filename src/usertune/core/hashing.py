"""Names for content: canonical JSON, digests of values, files and folders."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20
NOT_IN_FINGERPRINT = frozenset({"upstream", "provenance", "rebuild"})


def canonical_json(value: Any) -> str:
    """Return the one JSON text of ``value``: sorted keys, no spaces, UTF-8, no NaN.

    Equal values give equal texts whatever the order in which dicts were built, so the text can be
    compared and hashed. Follows the spirit of RFC 8785; floats are written by Python's shortest repr.

    Raises:
        ValueError: ``value`` holds NaN or an infinity.
        TypeError: ``value`` holds something that JSON cannot express.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


def step_fingerprint(recipe: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """Return the fingerprint of a step's result: the digest of what it does and of what it read.

    Args:
        recipe: the step's recipe; its ``upstream`` does not count, since it describes how the inputs were
            to be made and not what they are; nor do ``provenance`` and ``rebuild``, which say when to do it again.
        inputs: for each role the digest of the input's content, or of each of several inputs by its name.
    """
    own = {key: value for key, value in recipe.items() if key not in NOT_IN_FINGERPRINT}
    return digest({"recipe": own, "inputs": dict(inputs)})


def digest_bytes(content: bytes) -> str:
    """Return the SHA-256 (64 hex digits) of ``content``."""
    return hashlib.sha256(content).hexdigest()


def digest_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 (64 hex digits) of a file's bytes, read in pieces of 1 MiB."""
    total = hashlib.sha256()
    with open(path, "rb") as handle:
        while piece := handle.read(CHUNK_BYTES):
            total.update(piece)
    return total.hexdigest()


def digest_folder(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return ``{relative path: SHA-256}`` for every visible file below ``folder``, in sorted order.

    Files and folders whose name begins with a dot are left out (editors and download tools leave them).
    """
    root = Path(folder)
    return {name: digest_file(root / name) for name in list_files(root)}


def file_states(folder: str | os.PathLike[str], names: Iterable[str]) -> dict[str, list[int]]:
    """Return size in bytes and modification time in ns of files of a folder, by name.

    Raises:
        FileNotFoundError: one of them is not there.
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
