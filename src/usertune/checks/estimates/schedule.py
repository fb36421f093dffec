"""The learning-rate schedule that a training reaches with its number of steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from usertune.study.schema.training import Training
from usertune.training.schedule import optimizer_steps


def learning_rate(kind: str, peak: float, step: int, warmup_steps: int, steps: int) -> float:
    """Return the learning rate of an optimizer step, by the schedules of transformers (``optimization.py``).

    Args:
        kind: linear, cosine or constant_with_warmup.
        peak: the highest learning rate.
        step: number of the step, from 1.
        warmup_steps: steps in which the rate rises from 0.
        steps: number of all steps; linear and cosine would reach 0 one step later.
    """
    done = step - 1
    if done < warmup_steps:
        return peak * done / warmup_steps
    if kind == "constant_with_warmup":
        return peak
    progress = (done - warmup_steps) / max(1, steps - warmup_steps)
    return peak * (1 - progress if kind == "linear" else (1 + math.cos(math.pi * progress)) / 2)


@dataclass(frozen=True)
class Reached:
    """The schedule of a training: its steps, those of the warm-up, and the highest and the last learning rate."""

    steps: int
    warmup_steps: int
    peak: float
    highest: float
    last: float

    def in_words(self) -> str:
        """Return it as ``reaches 1e-4 after 4 of 90 steps, ends at 1.2e-6``."""
        if self.highest < self.peak:
            return f"never reaches {rate(self.peak)}: warm-up of {self.warmup_steps} steps, training of {self.steps}"
        return f"reaches {rate(self.peak)} after {self.warmup_steps} of {self.steps} steps, ends at {rate(self.last)}"


def schedule_reached(training: Training, samples: int) -> Reached:
    """Return the schedule that a training reaches with this number of samples (1 or more)."""
    steps = optimizer_steps(samples, training.batch_size, training.epochs)
    share = max(0, min(math.ceil(training.warmup * steps), steps - 1))
    warmup_steps = share if training.warmup_steps is None else training.warmup_steps
    assert training.learning_rate is not None
    rates = [
        learning_rate(training.schedule, training.learning_rate, step, warmup_steps, steps)
        for step in {min(warmup_steps + 1, steps), steps}
    ]
    last = learning_rate(training.schedule, training.learning_rate, steps, warmup_steps, steps)
    return Reached(steps, warmup_steps, training.learning_rate, max(rates), last)


def rate(value: float) -> str:
    """Return a learning rate with two digits, as people write it: 1e-4."""
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"
