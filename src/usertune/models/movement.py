"""Whether training moved the weights. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Below this relative change of the weights, answers are those of the base model: float32 has a relative precision of
# 6e-8, and the product of a layer averages over hundreds of weights.
HARDLY = 1e-6


def did_not_move(manifest: Mapping[str, Any]) -> bool:
    """Whether a training manifest says that the weights did not move; False for older manifests, which lack it."""
    moved = manifest.get("weights_moved")
    return moved is not None and moved < HARDLY
