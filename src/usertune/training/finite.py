"""Stops a training at the first number that is not finite, before it reaches a checkpoint or the saved weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from usertune.core.errors import FinalError
from usertune.training.batches import DUMMY, Samples
from usertune.training.distributed.collectives import gathered, highest
from usertune.training.trainer import Losses, SparseLossTrainer

NAMED_SAMPLES = 8


class StopIfNotFinite(TrainerCallback):
    """Ends a training in all processes with a `FinalError` that names the step and its samples.

    It checks the loss and the gradient norm of every optimizer step before the weights change, and the weights before
    each checkpoint. Add it after the callbacks that request checkpoints.

    Args:
        trainer: the trainer, which keeps the losses of the step's micro-batches.
        advice: what the user can try, for the message.
    """

    def __init__(self, trainer: SparseLossTrainer, advice: str) -> None:
        self._trainer, self._advice = trainer, advice

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Check the losses and the gradients of a step before the weights change."""
        losses, norm = self._trainer.step_losses, self._trainer.gradient_norm
        self._trainer.step_losses = []
        if not _everywhere(math.isfinite(norm) and are_finite(loss for loss, _ in losses)):
            parts = _parts(losses)
            found = f"the loss is {math.fsum(loss for loss, _ in parts):g}, the gradient norm {norm:g}"
            self._stop(f"at step {state.global_step + 1}", found, _culprits(parts, self._trainer.train_dataset))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check the weights before a checkpoint, and the loss after the last step."""
        if control.should_save:
            self.check_weights()
        if state.global_step >= state.max_steps:
            self._check_last_step()

    def check_weights(self) -> None:
        """Check the trained weights.

        Raises:
            FinalError: some of them are not finite.
        """
        if not _everywhere(are_finite(value for value in self._trainer.model.parameters() if value.requires_grad)):
            self._stop(f"after step {self._trainer.state.global_step}", "trained weights are not finite")

    def check_validation(self, losses: Losses, mean: float) -> None:
        """Check the validation loss; every process must call this, with its own micro-batches and the common mean.

        Raises:
            FinalError: it is not finite.
        """
        if not math.isfinite(mean):
            samples = _culprits(_parts(losses), self._trainer.eval_dataset)
            self._stop(f"after step {self._trainer.state.global_step}", f"the validation loss is {mean:g}", samples)

    def _check_last_step(self) -> None:
        # Finite weights can still give a loss that is not finite, and no further step would show it.
        losses = self._trainer.losses_of_one_micro_batch()
        if not _everywhere(are_finite(loss for loss, _ in losses)):
            samples = _culprits(_parts(losses), self._trainer.train_dataset)
            self._stop("after the last step", "the loss of training samples is not finite", samples)

    def _stop(self, when: str, found: str, samples: str = "") -> NoReturn:
        steps = self._trainer.state.max_steps
        named = f" ({samples})" if samples else ""
        raise FinalError(
            f"training stopped {when} of {steps}, without saving these weights: {found}{named}; {self._advice}"
        )


def are_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether all numbers of the tensors are finite; of a sharded tensor, only this process's shard is checked."""
    flags = [(value.to_local() if isinstance(value, DTensor) else value).detach().isfinite().all() for value in tensors]
    return not flags or bool(torch.stack(flags).all())


def advice_for(learning_rate: float, dtype: str) -> str:
    """Return advice for a training with numbers that are not finite."""
    rate = f"lower training.learning_rate (it is {learning_rate:g})"
    float32 = "" if dtype == "float32" else ", base_model.dtype: float32"
    return f"{rate}, or try a longer warm-up or a smaller training.max_grad_norm{float32}, and check the samples"


def _everywhere(here: bool) -> bool:
    """Whether ``here`` is true in every process; every process must call this."""
    return not highest(int(not here))


def _parts(losses: Losses) -> list[tuple[float, list[int]]]:
    """Return the loss and sample numbers of every micro-batch of all processes; every process must call this."""
    own = [(float(loss), numbers.tolist()) for loss, numbers in losses]
    return [part for parts in gathered(own) for part in parts]


def _culprits(parts: Sequence[tuple[float, list[int]]], samples: Samples) -> str:
    """Name the samples of the micro-batches with a loss that is not finite; if there are none, of all micro-batches."""
    bad = [part for part in parts if not math.isfinite(part[0])] or parts
    numbers = sorted({number for _, batch in bad for number in batch if number != DUMMY})
    found = [samples.samples[number][0] for number in numbers]
    names = ", ".join(f"{sample['id']} (user {sample['user']})" for sample in found[:NAMED_SAMPLES])
    more = f" and {len(found) - NAMED_SAMPLES} more" if len(found) > NAMED_SAMPLES else ""
    return f"samples: {names}{more}"
