"""Number of optimizer steps of a training, and of its warm-up. Does not import torch."""

from __future__ import annotations

import math
from typing import Protocol

from usertune.core.errors import FinalError

# Share of the steps, as in the official fine-tuning of Qwen3-VL (qwen-vl-finetune: --warmup_ratio 0.03).
WARMUP = 0.03


class Schedule(Protocol):
    """The training settings, of a study or of a recipe, that determine the number of steps."""

    @property
    def epochs(self) -> float: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def warmup(self) -> float: ...  # noqa: D102
    @property
    def warmup_steps(self) -> int | None: ...  # noqa: D102


def optimizer_steps(samples: int, batch_size: int, epochs: float) -> int:
    """Return the number of steps of a training; the last step of an epoch takes the remaining samples.

    Args:
        samples: number of training samples.
        batch_size: samples per step.
        epochs: passes over the samples.
    """
    return math.ceil(epochs * math.ceil(samples / batch_size))


def warm_up(training: Schedule, samples: int, name: str = "") -> int:
    """Return the number of steps over which the learning rate rises.

    Args:
        training: ``warmup_steps`` is used if set, otherwise ``warmup``, a share of all steps, which always leaves a
            step at the peak rate.
        samples: number of training samples.
        name: name of the experiment, for the message.

    Raises:
        FinalError: ``warmup_steps`` reaches the number of steps, so the learning rate would never reach its peak.
    """
    steps = optimizer_steps(samples, training.batch_size, training.epochs)
    share: int = max(0, min(math.ceil(training.warmup * steps), steps - 1))
    if training.warmup_steps is None:
        return share
    asked = training.warmup_steps
    if steps <= asked:
        of = f"of experiment {name} " if name else ""
        raise FinalError(
            f"training.warmup_steps {of}is {asked}, but training takes only {steps} steps ({samples} samples, "
            f"batch_size {training.batch_size}, epochs {training.epochs:g}), so the learning rate would not "
            f"reach its peak; write warmup_steps: {share}, or leave it out: warmup is a share of the steps ({WARMUP:g})"
        )
    return asked
