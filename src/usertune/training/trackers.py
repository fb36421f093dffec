"""Reports the losses of a training to trackers, through the Trainer's own integrations."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks

from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.training.tracking import MLFLOW_RUN, Tracking, environment_of, environment_set

logger = logging.getLogger(__name__)


@contextmanager
def tracked(tracking: Tracking | None, work: Path) -> Iterator[dict[str, Any]]:
    """Yield the arguments of `transformers.TrainingArguments` that report a training; its runs end with the block.

    Args:
        tracking: where to report; None: nowhere.
        work: working folder of the training.
    """
    if tracking is None or not tracking.trackers:
        yield {"report_to": "none"}
        return
    with environment_set(environment_of(tracking, work)):
        try:
            yield {"report_to": list(tracking.trackers), "run_name": tracking.run, "project": tracking.project}
        finally:
            _end_runs(tracking)


def guard_trackers(trainer: Trainer, tracking: Tracking | None, work: Path) -> None:
    """Let no tracker end a training: what fails after the first step is a warning.

    Args:
        trainer: a Trainer with the arguments of `tracked`.
        tracking: where to report.
        work: working folder of the training.
    """
    if tracking is None:
        return
    guarded = trainer.callback_handler.callbacks
    for tracker, kind in zip(tracking.trackers, get_reporting_integration_callbacks(tracking.trackers), strict=True):
        index = next(index for index, callback in enumerate(guarded) if type(callback) is kind)
        guarded[index] = Guarded(tracker, guarded[index], work)


class Guarded(TrainerCallback):
    """A tracker's callback whose failures do not end the training.

    Args:
        name: name of the tracker.
        callback: its callback.
        work: working folder of the training.
    """

    def __init__(self, name: str, callback: TrainerCallback, work: Path) -> None:
        self._name, self._callback, self._work, self._failed = name, callback, work, False
        for event in dir(TrainerCallback):
            if event.startswith("on_"):
                setattr(self, event, partial(self._call, event))

    def _call(self, event: str, *arguments: Any, **named: Any) -> None:
        if self._failed:
            return
        try:
            getattr(self._callback, event)(*arguments, **named)
            if event == "on_train_begin" and self._name == "mlflow":
                self._keep_run()
        except Exception as error:
            if event == "on_train_begin":
                text = f"tracking.trackers: {self._name} cannot be used ({error}); fix it, or leave it out"
                raise UserError(text) from error
            self._failed = True
            logger.warning("%s does not answer; this training is no longer reported to it: %s", self._name, error)

    def _keep_run(self) -> None:
        run = import_module("mlflow").active_run()
        if run is not None:
            write_text(self._work / MLFLOW_RUN, run.info.run_id)


def _end_runs(tracking: Tracking) -> None:
    """End runs that the Trainer leaves open, so that the next training of this process has its own.

    W&B reads the environment, and with it the identity of the run, once until its ``teardown``.
    """
    for name, end in (("wandb", "finish"), ("wandb", "teardown"), ("mlflow", "end_run")):
        if name in tracking.trackers:
            getattr(import_module(name), end)()
