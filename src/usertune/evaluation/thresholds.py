"""Hit thresholds: distances in the 0-1000 space within which a click counts, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from usertune.core.errors import UserError


def thresholds_of(recipe: Mapping[str, Any]) -> list[float]:
    """Return the recipe's hit thresholds (distances in the 0-1000 space, the primary one first).

    Raises:
        UserError: there is none, one is not a positive number, or two have the same label.
    """
    values = recipe.get("thresholds")
    if not isinstance(values, list) or not values:
        raise UserError(f"thresholds: found {values!r}; give at least one distance, such as [140]")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise UserError(f"thresholds: found {value!r}; each is a positive distance in the 0-1000 space")
    if len({threshold_label(value) for value in values}) < len(values):
        raise UserError(f"thresholds: {values} names a distance twice; keep it once")
    return values


def threshold_label(threshold: float) -> str:
    """Return how a threshold is written in names of columns and keys: 140 and 140.0 are both ``140``."""
    return f"{threshold:g}"


def hit_column(threshold: float) -> str:
    """Return the name of the 0/1 column that says whether a sample was hit at this threshold."""
    return f"hit_{threshold_label(threshold)}"
