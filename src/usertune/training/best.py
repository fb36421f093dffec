"""Keeps the weights with the lowest validation loss, and stops training when it no longer improves.

Every working checkpoint contains the history of losses, which gives the best step; so a resumed training knows it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from usertune.core.errors import UserError
from usertune.core.files import folder_replacement, read_json, write_json
from usertune.training.distributed.collectives import rank, wait_for_all

logger = logging.getLogger(__name__)

PREFIX = "best-"


def validations(history: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Return (step, validation loss) of every validation."""
    return [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]


def best_of(history: Sequence[Mapping[str, Any]]) -> tuple[int, float] | None:
    """Return the first step with the lowest validation loss, and that loss; None before the first validation."""
    return min(validations(history), key=lambda found: found[1], default=None)


class KeepBest(TrainerCallback):
    """Saves the weights at each new lowest validation loss, and stops training if no lower one follows.

    Args:
        work: working folder of the training, which holds the best weights until the end.
        save: saves the weights into a folder, and returns how far they moved; every process calls it. None saves none.
        patience: number of validations without a lower loss after which training stops; None never stops it.
    """

    def __init__(self, work: Path, save: Callable[[Path], float] | None, patience: int | None) -> None:
        self._work, self._save, self._patience = work, save, patience
        self.stopped_early = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check that the best weights of earlier attempts exist."""
        best = best_of(state.log_history)
        if self._save and best and not self.folder(best[0]).is_dir():
            raise UserError(
                f"{self.folder(best[0])} is missing (the weights of the best step so far); to start training "
                f"again, delete the folders checkpoint-* next to it"
            )

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Save the weights if the last validation loss is the lowest; stop if the patience is used up."""
        best = best_of(state.log_history)
        assert best is not None
        if self._save and best[0] == state.global_step:
            moved = self._save(self.folder(best[0]))
            if rank() == 0:
                write_json(self._record(best[0]), {"step": best[0], "validation_loss": best[1], "moved": moved})
            wait_for_all()
        since = sum(step > best[0] for step, _ in validations(state.log_history))
        if self._patience is not None and since >= self._patience and state.global_step < state.max_steps:
            logger.info("the validation loss has not improved in %d validations; stopping", since)
            self.stopped_early = True
            control.should_training_stop = True
            # Training resumed from here would take another step.
            control.should_save = False
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Remove weights that are no longer the best of any checkpoint."""
        if self._save and rank() == 0:
            histories = [state.log_history, *map(_history, self._work.glob("checkpoint-*"))]
            kept = {best[0] for history in histories if (best := best_of(history))}
            for path in self._work.glob(f"{PREFIX}*"):
                if path not in {file for step in kept for file in (self.folder(step), self._record(step))}:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def folder(self, step: int) -> Path:
        """Return the folder of the weights of a step."""
        return self._work / f"{PREFIX}{step}"

    def _record(self, step: int) -> Path:
        return self._work / f"{PREFIX}{step}.json"

    def take(self, step: int, weights_folder: Path) -> float:
        """Put the weights of the best step into ``weights_folder``; return how far they moved."""
        moved: float = read_json(self._record(step))["moved"]
        if rank() == 0:
            # Copied, not moved: after a kill before the training is marked as complete, the next attempt needs them.
            with folder_replacement(weights_folder) as temporary:
                shutil.copytree(self.folder(step), temporary, copy_function=_link_or_copy)
        wait_for_all()
        return moved


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _history(checkpoint: Path) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())["log_history"]
    except (OSError, ValueError, KeyError):
        return []
    return found
