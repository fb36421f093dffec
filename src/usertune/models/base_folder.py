"""The base model's folder: its files, and its path in manifests, which stays valid when a project moves."""

from __future__ import annotations

import os
from pathlib import Path

from usertune.core.hashing import list_files

# Files that describe the model and do not affect its answers.
DESCRIPTIONS = ("README.md", "LICENSE", "pretraining.json", ".gitattributes")


def as_recorded(path: str | Path, manifest_file: str | Path) -> str:
    """Return a folder's path for the manifest: relative to the manifest, or absolute if given so."""
    path = Path(path).expanduser()
    # Path.resolve would replace links by their targets.
    return str(path) if path.is_absolute() else os.path.relpath(path, Path(manifest_file).parent)


def from_record(recorded: str, manifest_file: str | Path) -> Path:
    """Return the folder that a manifest names, relative to the working directory."""
    found = Path(os.path.normpath(Path(manifest_file).parent / recorded))
    # In older manifests, the path is relative to the working directory.
    return found if found.exists() or not Path(recorded).exists() else Path(recorded)


def model_files(folder: str | Path) -> list[str]:
    """Return the files of a model folder that affect the model's answers, relative to the folder."""
    return [name for name in list_files(folder) if name not in DESCRIPTIONS]


def is_local(path: str) -> bool:
    """Whether ``base_model.path`` is a folder rather than a name on the hub (``owner/name``)."""
    return Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") != 1
