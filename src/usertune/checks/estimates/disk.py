"""How much disk space trainings need."""

from __future__ import annotations

import math
from dataclasses import dataclass

from usertune.checks.estimates.memory import ADAMW_BYTES, FLOAT, HALF
from usertune.models.model_shape import ModelShape
from usertune.models.recipe import FreezeSettings, LoraSettings

# transformers' Trainer keeps two working checkpoints (`save_total_limit`), and writes a third before it removes one.
CHECKPOINTS_AT_ONCE = 3
# Best weights that checkpoints refer to, and the newest (`usertune.training.best.KeepBest`).
BEST_AT_ONCE = 3


@dataclass(frozen=True)
class Disk:
    """Bytes of one training.

    Attributes:
        checkpoint: one working checkpoint: weights in float32, and the optimizer's two moments.
        weights: the result.
        peak: what is there at once before the training ends.
    """

    checkpoint: int
    weights: int
    peak: int

    def times(self, trainings: int) -> Disk:
        """Return the bytes of several trainings, one after another."""
        working = self.peak - self.weights
        return Disk(self.checkpoint, self.weights * trainings, self.weights * trainings + working)


def training_disk(
    shape: ModelShape,
    weights: LoraSettings | FreezeSettings,
    dtype: str,
    steps: int,
    save_every_steps: int,
    keeps_best: bool,
    kept: int = 0,
) -> Disk:
    """Return what a training writes.

    A working checkpoint of mode lora holds the adapter, one of mode full the complete model. The result of mode full is
    in the study's number format (`usertune.training.finetune`). ``kept`` is the number of steps whose weights are kept
    besides the result.
    """
    trained = shape.trained(weights)
    is_lora = isinstance(weights, LoraSettings)
    saved = FLOAT * (trained if is_lora else shape.total)
    checkpoint = saved + ADAMW_BYTES * trained
    result = saved if is_lora or dtype == "float32" else HALF * shape.total
    # The Trainer also saves after the last step.
    checkpoints = min(CHECKPOINTS_AT_ONCE, math.ceil(steps / save_every_steps))
    best = BEST_AT_ONCE if keeps_best else 0
    return Disk(checkpoint, (1 + kept) * result, checkpoints * checkpoint + (1 + best + kept) * result)
