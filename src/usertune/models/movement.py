"""What counts as weights that training did not move. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Relative change of weights below which answers are those of the base model: float32 keeps a relative precision of
# 6e-8, and the product of a layer averages over hundreds of weights.
HARDLY = 1e-6


def did_not_move(manifest: Mapping[str, Any]) -> bool:
    """Whether a training's manifest says that it left the weights as they were; older manifests do not say it."""
    moved = manifest.get("weights_moved")
    return moved is not None and moved < HARDLY
