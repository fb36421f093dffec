"""Answers for further prediction jobs on the base model that a job has loaded, so that they need not load it.

Answers go into the store, as those of any job. The other jobs still run, find them there and write their own
predictions. So no job waits for another one, and none depends on whether another one ends well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from usertune.core.errors import UserError
from usertune.core.hashing import KEPT_STEPS, digest
from usertune.core.recipe import Settings
from usertune.core.step_names import TRAIN
from usertune.inference.generate import Generation
from usertune.inference.models_in_use import Found
from usertune.inference.predict_job import PredictFiles, PredictJob
from usertune.inference.recipe import PredictRecipe
from usertune.runtime.progress import part_of

logger = logging.getLogger(__name__)

# Keys of a recorded recipe that are not part of its digest.
NOT_IN_DIGEST = (KEPT_STEPS, "rebuild")


class OtherJob(Settings):
    """A prediction job that another one may answer for. Paths are relative to the working directory."""

    experiment: str
    """Name of the experiment."""
    recipe: PredictRecipe
    """Settings of generation."""
    predictions: str
    """The file that the job writes."""
    weights: tuple[str, ...]
    """Manifests of the trained weights."""
    start: str | None = None
    """Manifest of the training whose weights they started from."""
    users: tuple[str, ...]
    """Manifests of the users' prepared data."""
    context: tuple[str, ...] = ()
    """Manifests of the prepared data of other users whose samples are in the prompts."""

    def files(self, own: PredictFiles) -> PredictFiles:
        """Return its files; base model, raw data and store are those of the job that answers."""
        return replace(
            own,
            weights=[Path(path) for path in self.weights],
            users=[Path(path) for path in self.users],
            predictions=Path(self.predictions),
            start=Path(self.start) if self.start else None,
            context=[Path(path) for path in self.context],
        )


class SharedBase(Settings):
    """The prediction jobs of a run that can share a loaded base model."""

    groups: tuple[tuple[OtherJob, ...], ...]
    """The jobs that can answer for each other, in a group for each base model, engine and settings."""

    def others(self, predictions: Path) -> list[OtherJob]:
        """Return the jobs that the job which writes these predictions can answer for; none if it is not named."""
        for group in self.groups:
            if any(Path(job.predictions) == predictions for job in group):
                return [job for job in group if Path(job.predictions) != predictions]
        return []


@dataclass(frozen=True)
class Others:
    """Jobs that a job may answer for.

    Attributes:
        jobs: the jobs.
        seconds: time since the start of this job after which it turns to no other one.
    """

    jobs: Sequence[OtherJob] = ()
    seconds: float = 0.0

    @classmethod
    def of(cls, shared: SharedBase | None, predictions: Path, minutes: float) -> Self:
        """Return the jobs that the job which writes these predictions can answer for; none if there is no time."""
        return cls(shared.others(predictions) if shared is not None and minutes else (), minutes * 60)


def answer_for_others(own: PredictJob, generation: Generation, others: Others, started: float, done: int) -> int:
    """Answer for each job whose weights are ready and whose answers are missing and not generated elsewhere now.

    Weights can become ready meanwhile, so it looks again until it finds nothing to do.

    Args:
        own: the job that loaded the base model.
        generation: what answered its questions.
        others: the other jobs.
        started: when this job started, in the time of `time.monotonic`.
        done: number of its own answers, for its progress.

    Returns:
        The number of answers.
    """
    count, waiting = 0, list(others.jobs)
    while True:
        before = len(waiting)
        for other in list(waiting):
            if time.monotonic() - started >= others.seconds:
                logger.info("%d other jobs are left to themselves: the time for them is over", len(waiting))
                return count
            found = _answer_for(own, generation, other, done + count)
            if found is not None:
                waiting.remove(other)
                count += found
        if len(waiting) == before:
            return count


def _answer_for(own: PredictJob, generation: Generation, other: OtherJob, done: int) -> int | None:
    """Return the number of generated answers; None if they cannot be generated here yet."""
    files = other.files(own.files)
    if not all(path.exists() for path in (*files.weights, *files.users)):
        return None
    try:
        job = PredictJob.read(other.experiment, other.recipe, files)
        if not _is_current(job, own):
            return None
        with job.if_nobody_answers() as free:
            missing = job.missing(job.stored()) if free else []
            if not missing:
                return 0 if free else None
            logger.info("%s: answering %d samples on the same base model", other.experiment, len(missing))
            generation.turn_to(job, missing)
            with part_of(done, done + len(missing)):
                generation.answer(job, missing)
            return len(missing)
    except UserError as problem:
        # The job itself will report it, and this one has its own answers.
        logger.warning("%s is left to its own job: %s", other.experiment, problem)
        return 0


def _is_current(job: PredictJob, own: PredictJob) -> bool:
    """Whether weights are those that the study asks for now, not those of an earlier run that are to be replaced."""
    for found in job.models.weights:
        recipe = {key: value for key, value in found.manifest["recipe"].items() if key not in NOT_IN_DIGEST}
        if digest(recipe) != job.recipe.upstream.get(found.manifest["step"]):
            return False
    # All trainings on the training users see the same data, so with other data a training is an earlier one.
    return not own.models.weights or all(
        _data(found) == _data(other) for found in _trained(job) for other in _trained(own)
    )


def _trained(job: PredictJob) -> list[Found]:
    return [found for found in job.models.weights if found.manifest["step"] == TRAIN]


def _data(found: Found) -> Mapping[str, Any]:
    inputs: Mapping[str, Any] = found.manifest["inputs"]
    return inputs
