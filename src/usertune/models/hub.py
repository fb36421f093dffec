"""The model hub and its cache on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from usertune.core.errors import UserError

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja")
_TRUE = {"1", "ON", "YES", "TRUE"}


def hub_home(environment: Mapping[str, str]) -> Path:
    """Return the folder of the hub client's files, outside containers."""
    if home := environment.get("HF_HOME"):
        return Path(home).expanduser()
    caches = environment.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path("~/.cache").expanduser()) / "huggingface"


def is_offline(environment: Mapping[str, str]) -> bool:
    """Whether the environment restricts the hub client to its cache."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(environment.get(name, "").upper() in _TRUE for name in names)


def hub_cache(environment: Mapping[str, str]) -> Path:
    """Return the folder of the models that the hub client downloaded."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := environment.get(name):
            return Path(folder).expanduser()
    return hub_home(environment) / "hub"


def cached_models(environment: Mapping[str, str]) -> list[str]:
    """Return the hub names of the models in the cache."""
    folders = hub_cache(environment).glob("models--*--*")
    return sorted(folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders)


def cached_snapshot(name: str, revision: str | None, environment: Mapping[str, str]) -> Path | None:
    """Return the cached folder of a model at a revision, which may be incomplete; None if there is none."""
    folder = hub_cache(environment) / f"models--{name.replace('/', '--')}"
    wanted = revision or "main"
    try:
        commit = (folder / "refs" / wanted).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = wanted
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def download(name: str, revision: str | None, similar: str, files: Sequence[str] = MODEL_FILES) -> Path:
    """Download a model, or find it in the cache, and return its folder.

    Args:
        name: hub name, ``owner/name``.
        revision: commit, tag or branch; None for the newest.
        similar: clause about similar names for the error message.
        files: patterns of the files to download.

    Raises:
        UserError: there is no such model or revision, it needs permission, or the hub cannot be reached.
    """
    # Imported here: models in local folders need no hub client.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except GatedRepoError:
        raise UserError(
            f"base_model.path: {name} needs permission to download; ask for access on the hub, then: hf auth login"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"base_model.path: {name} is neither a folder here nor a model on the hub (nor a private one that this "
            f"account may read){similar}"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"base_model.revision: {name} has no commit, tag or branch {revision!r} on the hub") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"base_model.path: {name} is not a folder here and cannot be downloaded ({type(error).__name__}){similar}; "
            "download it on a machine with a network, and set HF_HOME to that cache or path to its folder"
        ) from None
    # Without a network, the client's HTTP library raises errors of its own.
    except Exception as error:
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        raise UserError(
            f"base_model.path: {name} is not a folder here, and the hub cannot be reached "
            f"({type(error).__name__}){similar}"
        ) from None
