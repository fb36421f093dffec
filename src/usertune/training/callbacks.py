"""Callbacks of the Trainer: progress, stop signals, validation at the last step, checkpoint markers."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from usertune.core.errors import StopRequested, UserError
from usertune.core.files import sync_folder
from usertune.core.manifest import read_result, write_result
from usertune.runtime.progress import Progress
from usertune.runtime.signals import DeferredSignal
from usertune.training.checkpoints import weights_are_finite
from usertune.training.distributed.collectives import highest, wait_for_all
from usertune.training.effort import Effort

logger = logging.getLogger(__name__)

CHECKPOINT_MARKER = "complete.json"
# After the last step, a working checkpoint is worth its time if computing again what it would save takes longer.
WORTH_SECONDS = 30.0


def newest_checkpoint(work: Path) -> Path | None:
    """Return the newest working checkpoint that is complete and finite; remove all damaged and newer ones."""
    complete = []
    for folder in work.glob("checkpoint-*"):
        if _is_complete(folder):
            complete.append(folder)
        else:
            logger.warning("%s: incomplete or damaged; removed", folder)
            shutil.rmtree(folder)
    for folder in sorted(complete, key=step_of, reverse=True):
        if weights_are_finite(folder):
            return folder
        logger.warning("%s: its weights are not finite; removed", folder)
        shutil.rmtree(folder)
    return None


def step_of(checkpoint: Path) -> int:
    """Return the number of optimizer steps before a working checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def _is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint has its marker, and its files still have their sizes.

    The content is not read: with optimizer states, a checkpoint can have a hundred GB.
    """
    try:
        sizes = read_result(checkpoint / CHECKPOINT_MARKER)["sizes"]
    except UserError:
        return False
    return all((path := checkpoint / name).is_file() and path.stat().st_size == size for name, size in sizes.items())


class StopOnSignal(DeferredSignal, TrainerCallback):
    """On the first stop signal, save a checkpoint after the current step and stop; a second one ends at once."""

    def __init__(self) -> None:
        super().__init__(self._say)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self.signal is not None:
            control.should_save = True
            control.should_training_stop = True
        return control

    @staticmethod
    def _say(number: int) -> None:
        logger.info("%s: saving a checkpoint after this step, then stopping", signal.Signals(number).name)


class StopTogether(StopOnSignal):
    """Stop all processes after the same step, with a checkpoint, once any of them receives a stop signal.

    Args:
        stop_signal: returns the stop signal that this process received, or None.
    """

    def __init__(self, stop_signal: Callable[[], int | None]) -> None:
        super().__init__()
        self._stop_signal = stop_signal

    def __enter__(self) -> None:
        """Do nothing: `usertune.training.distributed.training_process` handles the signals."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if number := highest(self._stop_signal() or 0):
            raise StopRequested(number)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> TrainerControl:
        if number := highest(self._stop_signal() or 0):
            self.signal = number
            logger.info("%s: saving a checkpoint, then stopping", signal.Signals(number).name)
        return super().on_step_end(args, state, control, **others)


class MarkCheckpoints(TrainerCallback):
    """Mark a working checkpoint as complete once all processes have written their files."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        wait_for_all()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            # Includes hidden files: the shards' metadata is one.
            below = list(folder.rglob("*"))
            for directory in [folder, *(path for path in below if path.is_dir())]:
                sync_folder(directory)
            sizes = {str(path.relative_to(folder)): path.stat().st_size for path in below if path.is_file()}
            write_result(folder / CHECKPOINT_MARKER, {"step": state.global_step, "sizes": sizes})


class SkipLastCheckpoint(TrainerCallback):
    """Skip the working checkpoint after the last step unless it saves `WORTH_SECONDS`: the weights are saved next.

    Add it before the callbacks that stop a training, which ask for a checkpoint to resume from.
    """

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._since = time.monotonic()

    def on_save(self, *_: Any, **__: Any) -> None:
        self._since = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if state.global_step >= state.max_steps:
            control.should_save = bool(highest(int(time.monotonic() - self._since >= WORTH_SECONDS)))
        return control


class ValidateAtEnd(TrainerCallback):
    """Also measure the validation loss at the last step, whatever the interval."""

    def __init__(self, has_validation: bool) -> None:
        self.has_validation = has_validation

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self.has_validation and state.global_step == state.max_steps:
            control.should_evaluate = True
        return control


class KeepEffort(TrainerCallback):
    """Counts steps, samples and tokens; rank 0 writes the record.

    Args:
        effort: the record.
        samples: number of training samples.
        batch_size: samples per optimizer step.
        tokens: returns how many tokens this process has computed with in this attempt.
    """

    def __init__(self, effort: Effort, samples: int, batch_size: int, tokens: Callable[[], int]) -> None:
        self._effort, self._tokens = effort, tokens
        self._per_epoch = -(-samples // batch_size)
        self._full, self._last = batch_size, samples - (self._per_epoch - 1) * batch_size

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._effort.note()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._effort.steps += 1
        self._effort.samples += self._full if state.global_step % self._per_epoch else self._last
        # An estimate: the other processes have about as many.
        self._effort.tokens = self._tokens() * args.world_size
        if state.is_world_process_zero:
            self._effort.note(at_once=control.should_save)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._effort.note()


class SayProgress(TrainerCallback):
    """Logs progress and remaining time every few seconds."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.progress: Progress | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        logger.info("training on %d samples, %d steps", self.samples, state.max_steps)
        self.progress = Progress(state.max_steps, "steps", done=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.progress is not None:
            self.progress.advance(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs and "eval_loss" in logs:
            logger.info("step %d of %d: validation loss %.4f", state.global_step, state.max_steps, logs["eval_loss"])
