"""The catalogue of model families, by ``model_type`` in config.json. One line here adds a family (docs/models.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from usertune.core.catalogue import Catalogue
from usertune.core.errors import UserError
from usertune.core.files import read_json
from usertune.models.base_folder import is_local
from usertune.models.family import Family
from usertune.models.hub import cached_snapshot

FAMILIES = Catalogue(
    "type of base model",
    {
        "qwen3_vl": "usertune.models.families.qwen3_vl:Qwen3VL",
        "qwen3_5": "usertune.models.families.qwen3_5:Qwen35",
    },
)


def get_family(model_type: str) -> Family:
    """Return the family of models with this ``model_type``.

    Raises:
        UserError: there is no such family; the message lists those that exist.
    """
    return cast(Family, FAMILIES.load(model_type)())


def family_of(folder: str | Path) -> Family:
    """Return the family of the model in a folder.

    Raises:
        UserError: its config.json cannot be read, or names no known family.
    """
    file = Path(folder) / "config.json"
    try:
        return get_family(read_json(file).get("model_type", ""))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None


def recorded_module(base: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the module of the family that the base model's manifest names, for the code version of a step.

    Empty if it names no known family.
    """
    return _module(base.get("about", {}).get("model_type"))


def module_here(path: str, revision: str | None) -> tuple[str, ...]:
    """Return the module of a study's base model, for code versions: as far as this machine has its config.json.

    Args:
        path: ``base_model.path`` of the study, a folder or a name on the hub.
        revision: ``base_model.revision``.
    """
    folder = Path(path).expanduser() if is_local(path) else cached_snapshot(path, revision, os.environ)
    try:
        return _module(read_json(folder / "config.json").get("model_type")) if folder else ()
    except (UserError, OSError):
        return ()


def _module(model_type: object) -> tuple[str, ...]:
    return (FAMILIES.module(model_type),) if model_type in tuple(FAMILIES) else ()
