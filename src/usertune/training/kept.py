"""Keeps the weights of some steps of a training, besides those that it ends with."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from usertune.training.callbacks import newest_checkpoint, step_of
from usertune.training.kept_files import kept_folder, kept_steps, remove_kept

logger = logging.getLogger(__name__)


class KeepSteps(TrainerCallback):
    """Saves the weights after some steps, before a working checkpoint of the step is written.

    A training that resumes from a working checkpoint therefore has the weights of all earlier steps that it keeps.

    Args:
        work: working folder of the training.
        steps: the optimizer steps.
        save: saves the weights into a folder; every process calls it.
    """

    def __init__(self, work: Path, steps: Iterable[int], save: Callable[[Path], object]) -> None:
        self._work, self._steps, self._save = work, frozenset(steps), save

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the weights if they are wanted."""
        if state.global_step in self._steps:
            self._save(kept_folder(self._work, state.global_step))
            logger.info("kept the weights of step %d", state.global_step)


def checkpoint_to_resume(work: Path, steps: Sequence[int]) -> Path | None:
    """Return the newest working checkpoint before which no step's weights are missing; remove all newer ones.

    Without one, weights that an earlier training kept are removed: they may differ in the last digits.

    Args:
        work: working folder of the training.
        steps: the steps whose weights the study wants.
    """
    missing = [step for step in steps if step not in kept_steps(work)]
    for checkpoint in work.glob("checkpoint-*"):
        if missing and step_of(checkpoint) >= min(missing):
            logger.info("%s: removed, since the weights of step %d were not kept before it", checkpoint, min(missing))
            shutil.rmtree(checkpoint)
    found = newest_checkpoint(work)
    if found is None:
        remove_kept(work)
    return found
