"""Resolves the paths of a study, which are relative to the file that sets them.

Paths on the command line are relative to the working directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from usertune.core.errors import UserError, shown
from usertune.models.model_folder import looks_like_a_folder
from usertune.study.files import KeyPath
from usertune.study.schema.elsewhere import ELSEWHERE
from usertune.study.schema.study import default_results

RESULTS, BASE_MODEL = ("results",), ("base_model", "path")
PATHS = (RESULTS, ("dataset", "root"), BASE_MODEL, ("container",))
# Paths in each experiment.
OF_EXPERIMENTS = ELSEWHERE


def with_resolved_paths(
    raw: Mapping[str, Any], lines: Mapping[KeyPath, str], command_line: Sequence[str]
) -> dict[str, Any]:
    """Return a configuration with paths relative to the working directory, or absolute if they are outside it.

    Args:
        raw: the merged configuration; later checks report values that are not paths.
        lines: ``file:line`` of every key that a file sets.
        command_line: ``name=value`` texts that were merged last.

    Raises:
        UserError: a path exists relative to the working directory, but not relative to the study.
    """
    resolved = dict(raw)
    name = raw.get("name")
    if raw.get("results") is None and isinstance(name, str):
        resolved["results"] = _from(_folder_of(("name",), lines), default_results(name))
    for path in (*PATHS, *_paths_of_experiments(raw)):
        *sections, key = path
        section = resolved
        for part in sections:
            section[part] = dict(section[part]) if isinstance(section.get(part), Mapping) else {}
            section = section[part]
        value = section.get(key)
        if raw.get(path[0]) is None or not isinstance(value, str) or not value or _typed(path, command_line):
            continue
        if path == BASE_MODEL and _is_hub_name(value, section.get("revision"), _folder_of(path, lines)):
            continue
        section[key] = _resolved(path, value, lines)
    if isinstance(resolved.get("results"), str) and resolved["results"]:
        # Snakemake compares file names as text.
        resolved["results"] = os.path.normpath(resolved["results"])
    return {key: value for key, value in resolved.items() if key in raw or key == "results"}


def _paths_of_experiments(raw: Mapping[str, Any]) -> list[KeyPath]:
    experiments = raw.get("experiments")
    named = experiments if isinstance(experiments, Mapping) else {}
    return [
        ("experiments", name, key)
        for name, own in named.items()
        for key in OF_EXPERIMENTS
        if isinstance(name, str) and isinstance(own, Mapping) and isinstance(own.get(key), str)
    ]


def _resolved(path: KeyPath, value: str, lines: Mapping[KeyPath, str]) -> str:
    folder = _folder_of(path, lines)
    if Path(value).is_absolute() or value.startswith(("~", "-")) or folder.resolve() == Path.cwd():
        return value
    found = folder / value
    if not found.exists() and Path(value).exists():
        better = os.path.relpath(value, folder)
        meant = f", or create the folder {found}" if path == RESULTS else ""
        raise UserError(
            f"{lines.get(path, 'the study')}: {'.'.join(path)}: paths of a study are relative to its folder; "
            f"{found} does not exist, but {value} exists in the working directory; write {shown(better)}{meant}"
        )
    return _from(folder, value)


def _is_hub_name(value: str, revision: object, folder: Path) -> bool:
    """Whether ``base_model.path`` is a hub name; a name that looks like a folder of the study needs a revision."""
    owner, _, name = value.partition("/")
    if not owner or not name or "/" in name or value.startswith((".", "~", "-")) or (folder / value).exists():
        return False
    return revision is not None or not looks_like_a_folder(value, folder)


def _from(folder: Path, value: str) -> str:
    """Return ``folder / value`` relative to the working directory, or absolute if it is outside."""
    if folder.resolve() == Path.cwd():
        return value
    # Not resolve(): symbolic links keep their names.
    absolute = os.path.normpath(Path.cwd() / folder / value)
    relative = os.path.relpath(absolute)
    return absolute if Path(relative).parts[:1] == (os.pardir,) else relative


def _folder_of(path: KeyPath, lines: Mapping[KeyPath, str]) -> Path:
    """Return the folder of the file that sets a key; the working directory if no file does."""
    location = lines.get(path)
    return Path(location.rpartition(":")[0]).parent if location else Path()


def folder_of(path: KeyPath, lines: Mapping[KeyPath, str], command_line: Sequence[str]) -> Path:
    """Return the folder to which a path under a key is relative.

    It is that of the file that sets the key, or the working directory if the command line does.
    """
    return Path() if _typed(path, command_line) else _folder_of(path, lines)


def _typed(path: KeyPath, command_line: Sequence[str]) -> bool:
    """Whether the command line sets a key."""
    for entry in command_line:
        key, _, text = entry.partition("=")
        if key != path[0]:
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            return True
        return len(path) == 1 or not isinstance(value, Mapping) or path[1] in value
    return False
