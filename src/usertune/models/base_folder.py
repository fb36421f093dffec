"""The folder of the base model: its files, and how its manifest names it, so that a project can be moved."""

from __future__ import annotations

import os
from pathlib import Path

from usertune.core.hashing import list_files

# Files that say something about the model but take no part in what it answers.
DESCRIPTIONS = ("README.md", "LICENSE", "pretraining.json", ".gitattributes")


def as_recorded(path: str | Path, manifest_file: str | Path) -> str:
    """Return a folder as the manifest names it: relative to the manifest, unless it was given as absolute."""
    path = Path(path).expanduser()
    # Not Path.resolve, since links keep the names that people gave them.
    return str(path) if path.is_absolute() else os.path.relpath(path, Path(manifest_file).parent)


def from_record(recorded: str, manifest_file: str | Path) -> Path:
    """Return the folder that a manifest names, as seen from the working directory."""
    found = Path(os.path.normpath(Path(manifest_file).parent / recorded))
    # Older manifests name it as seen from the working directory.
    return found if found.exists() or not Path(recorded).exists() else Path(recorded)


def model_files(folder: str | Path) -> list[str]:
    """Return the files of a model folder that decide what the model answers, relative to it."""
    return [name for name in list_files(folder) if name not in DESCRIPTIONS]


def is_local(path: str) -> bool:
    """Whether ``base_model.path`` is a folder rather than a name on the hub (``owner/name``)."""
    return Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") != 1
