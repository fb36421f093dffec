"""Hit thresholds: distances in the 0-1000 space within which a click counts, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from usertune.core.errors import UserError
from usertune.tasks.catalogue import get_task
from usertune.tasks.metrics import Metric, at_thresholds
from usertune.tasks.metrics import threshold_label as threshold_label


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


def metrics_of(recipe: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Return the metrics of the recipe's task at its thresholds, the primary one first.

    Raises:
        UserError: there is no such task, or the thresholds are not as `thresholds_of` needs them.
    """
    return at_thresholds(get_task(str(recipe.get("task"))).metrics, thresholds_of(recipe))
