"""How the manifest of the base model names the folder of the model, so that a project can be moved."""

from __future__ import annotations

import os
from pathlib import Path


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
