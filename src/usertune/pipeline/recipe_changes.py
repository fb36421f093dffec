"""The different settings of two recipes, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from usertune.core.hashing import NOT_IN_FINGERPRINT

_ABSENT = object()


def recipe_changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the different settings of two recipes, as ``training.epochs: 1 -> 2``, without upstream keys."""
    before, after = _flat(was), _flat(now)
    return [
        f"{key}: {_value(before, key)} -> {_value(after, key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, _ABSENT) != after.get(key, _ABSENT)
    ]


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in recipe.items():
        if not prefix and key in NOT_IN_FINGERPRINT:
            continue
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _value(recipe: Mapping[str, Any], key: str) -> str:
    if key not in recipe:
        return "(not set)"
    text = json.dumps(recipe[key], ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
