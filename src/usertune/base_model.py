"""Finding the base model and writing down which one it is, before any GPU is asked for."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from usertune.errors import UserError
from usertune.files import read_json
from usertune.fingerprint import digest_file, file_states, list_files
from usertune.made_with import made_with
from usertune.sealed import write_result
from usertune.step_fingerprints import base_model_fingerprint
from usertune.tensor_files import shapes_in

logger = logging.getLogger(__name__)

SUPPORTED_MODEL_TYPES = ("qwen3_vl",)
NEEDED_FILES = ("config.json", "tokenizer_config.json")
# Files that say something about the model but take no part in what it answers.
DESCRIPTIONS = ("README.md", "LICENSE", "pretraining.json", ".gitattributes")


def model_files(folder: str | Path) -> list[str]:
    """Return the files of a model folder that decide what the model answers, relative to it."""
    return [name for name in list_files(folder) if name not in DESCRIPTIONS]


def is_local(path: str) -> bool:
    """Whether ``base_model.path`` is a folder rather than a name on the hub (``owner/name``)."""
    return Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") != 1


def check_local(path: str) -> None:
    """Check that a local base model can be used, without loading it.

    Raises:
        UserError: the folder or one of its needed files is missing, or holds another kind of model.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"base_model.path: {path} is not a folder with a model")
    for name in NEEDED_FILES:
        if not (folder / name).is_file():
            raise UserError(f"base_model.path: {path} has no {name}; a model with its processor is needed there")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"base_model.path: {path} has no *.safetensors weights")
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in SUPPORTED_MODEL_TYPES:
        raise UserError(
            f"base_model.path: {path} holds a model of type {kind!r}; supported: {', '.join(SUPPORTED_MODEL_TYPES)}"
        )


def describe_base_model(recipe: Mapping[str, Any], manifest_file: str | Path) -> dict[str, Any]:
    """Find the base model (downloading it when it is a hub name) and write its manifest.

    Args:
        recipe: ``path`` and ``revision`` of the study's base model.
        manifest_file: JSON object to write: the local folder, what `about_model` finds there, and the digest of every
            file.

    Returns:
        The manifest. Its ``fingerprint`` depends on the files' content alone, so a copy is the same model.

    Raises:
        UserError: the model cannot be found, downloaded or used.
    """
    path, revision = recipe["path"], recipe["revision"]
    folder = Path(path).expanduser() if is_local(path) else _download(path, revision)
    check_local(str(folder))
    files = {}
    names = model_files(folder)
    state = file_states(folder, names)
    for name in names:
        logger.info("reading %s", folder / name)
        files[name] = digest_file(folder / name)
    manifest = {
        "step": "base_model",
        "recipe": dict(recipe),
        "folder": str(folder),
        "about": about_model(folder),
        "model_files": files,
        "model_state": state,
        "fingerprint": base_model_fingerprint(files),
        "made_with": [made_with("base_model")],
        "files": {},
    }
    write_result(manifest_file, manifest)
    return manifest


def about_model(folder: Path) -> dict[str, Any]:
    """Return what a model is known by: ``model_type``, ``parameters`` (numbers in its files) and ``commit`` on the hub.

    Parameters and commit are None where they cannot be told. The hub client names a snapshot's folder by its commit,
    and leaves a note in folders that it was told to fill.
    """
    commit = folder.name if folder.parent.name == "snapshots" else None
    note = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    with suppress(OSError, ValueError):
        commit = commit or note.read_text(encoding="utf-8").split("\n")[0].strip()
    known = commit if commit and re.fullmatch("[0-9a-f]{40}", commit) else None
    parameters = None
    with suppress(UserError):
        parameters = sum(math.prod(shape) for shape in shapes_in(folder).values())
    return {
        "model_type": read_json(folder / "config.json").get("model_type"),
        "parameters": parameters,
        "commit": known,
    }


def _download(name: str, revision: str | None) -> Path:
    # Imported here: the hub client is needed only for models that are not in a local folder.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except RepositoryNotFoundError:
        raise UserError(f"base_model.path: {name} is neither a folder here nor a model on the hub") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"base_model.path: {name} cannot be downloaded ({type(error).__name__}); "
            "download it where there is a network, and set HF_HOME to that cache or path to its folder"
        ) from None
