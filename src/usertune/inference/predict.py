"""Predicts a batch of users: reads stored answers and generates the others. Imports torch only to generate."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from usertune.core.errors import UserError
from usertune.core.manifest import step_manifest, write_result
from usertune.core.step_names import BASE_MODEL, PREDICT, PREPARE, TRAIN, TRAIN_FOLDS
from usertune.inference.generate import Generation, Means
from usertune.inference.models_in_use import ModelsInUse
from usertune.inference.other_jobs import Others, answer_for_others
from usertune.inference.predict_job import PredictFiles, PredictJob
from usertune.inference.prediction_store import Prediction
from usertune.inference.questions import Question
from usertune.inference.recipe import PredictRecipe
from usertune.inference.stored_answers import Asked, StoredAnswers, asked
from usertune.models.external_weights import lineage_of_others, training_of
from usertune.runtime.energy import added
from usertune.runtime.gpus import lease
from usertune.runtime.launchers import no_launcher
from usertune.runtime.provenance import Provenance, distinct

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generated:
    """Cost of generation: UUIDs of GPUs held and used, and seconds (``loading_seconds`` None: no model was loaded)."""

    count: int = 0
    gpus: Sequence[str] = ()
    gpus_used: Sequence[str] = ()
    seconds: float = 0.0
    loading_seconds: float | None = None


NOTHING = Others()


def predict_users(
    recipe: PredictRecipe, experiment: str, files: PredictFiles, means: Means, others: Others = NOTHING
) -> dict[str, Any]:
    """Collect the predictions of a batch of users, and generate those that the store does not have.

    Args:
        recipe: settings of generation.
        experiment: name of the experiment.
        files: files to read and write.
        means: what generation may use.
        others: jobs to answer for, once these predictions are written, if a model had to be loaded for them.

    Returns:
        The object written. ``generation_seconds`` and ``loading_seconds`` (None if no model was loaded) are of this
        call; ``answer_seconds``, ``timed_answers`` and ``answered`` (see `_times_of`) are of the answers, whichever
        call generated them.

    Raises:
        UserError: an input is missing or damaged, the weights were trained on another base model, from other weights or
            on other folds, or the store lacks answers and the batch size is 0.
    """
    started = time.monotonic()
    job = PredictJob.read(experiment, recipe, files)
    with ExitStack() as held:
        with job.alone():
            stored, generated, generation = _complete_store(job, means, held, bool(others.jobs))
        result = _result(job, stored, generated)
        write_result(files.predictions, result)
        if generation is not None and others.jobs:
            count = answer_for_others(job, generation, others, started, generated.count)
            logger.info("%d samples were answered for other jobs on the same base model", count)
    return result


def _result(job: PredictJob, stored: Mapping[Asked, Prediction], generated: Generated) -> dict[str, Any]:
    count = len(job.questions)
    logger.info("%s: %d samples generated, %d were stored", job.experiment, generated.count, count - generated.count)
    answers = {asked(question): stored[asked(question)] for question in job.questions}
    samples = {manifest["user"]: manifest["output"] for manifest in job.users}
    context = {user: manifest["output"] for user, manifest in job.context.items()}
    inputs = {**job.models.inputs, "samples": samples, **({"context": context} if context else {})}
    step = step_manifest(job.recipe, inputs)
    return {
        **step,
        "experiment": job.experiment,
        "users": [manifest["user"] for manifest in job.users],
        **_models(job.models, job.stores),
        "lineage": _lineage(job.models, job.users, step["fingerprint"]),
        "provenance": {TRAIN: _trained_with(job.models), PREDICT: job.stores.records_of(answers)},
        **_measurements(generated, count, answers),
        "adapter_effect": job.stores.effect(),
        "files": {},
        "predictions": [_row(question, answers[asked(question)]) for question in job.questions],
    }


def _complete_store(
    job: PredictJob, means: Means, held: ExitStack, for_others: bool
) -> tuple[dict[Asked, Prediction], Generated, Generation | None]:
    """Generate the missing answers.

    Args:
        job: the job.
        means: what generation may use.
        held: holds the GPUs until it ends.
        for_others: whether the engine may be used for other jobs.

    Returns:
        All stored answers, the cost of generation, and what generated; None if all answers were stored.
    """
    started = time.monotonic()
    stored = job.stored()
    missing = job.missing(stored)
    if not missing:
        return stored, Generated(), None
    if not means.batch_size:
        folder = job.stores.stores[missing[0].model].folder
        raise UserError(f"{folder}: {len(missing)} answers are missing that existed when jobs were planned; run again")
    devices = held.enter_context(lease(means.gpus))
    held.enter_context(no_launcher())
    loading = time.monotonic()
    generation = Generation(job, missing, means, for_others)
    loading_seconds = round(time.monotonic() - loading, 2)
    generation.answer(job, missing)
    generated = Generated(
        count=len(missing),
        gpus=devices,
        gpus_used=generation.engine.gpus(),
        seconds=round(time.monotonic() - started, 2),
        loading_seconds=loading_seconds,
    )
    return job.stored(), generated, generation


def _models(models: ModelsInUse, stores: StoredAnswers) -> dict[str, Any]:
    """Return what the models are, and the folders of the store with their answers."""
    folders = {key: store.folder.name for key, store in stores.stores.items()}
    if not models.folds:
        return {"model": dict(models.models[""].identity), "store_folder": folders[""]}
    return {"models": {key: dict(model.identity) for key, model in models.models.items()}, "store_folders": folders}


def _trained_with(models: ModelsInUse) -> list[Provenance]:
    """Return the distinct records of code, packages and machine of the trainings, the first one first."""
    trainings = [*([models.start] if models.start else []), *models.weights]
    return distinct(record for training in trainings for record in training_of(training.manifest)["provenance"])


def _lineage(models: ModelsInUse, users: Sequence[Mapping[str, Any]], fingerprint: str) -> dict[str, Any]:
    one = models.weights[0].manifest if models.weights and not models.folds else None
    folds = {manifest["user"]: models.folds_of_user(manifest["user"]) for manifest in users}
    of_folds = {user: own.trained.manifest["fingerprint"] for user, own in folds.items() if own}
    return {
        BASE_MODEL: models.base.manifest["output"],
        PREPARE: {manifest["user"]: manifest["fingerprint"] for manifest in users},
        TRAIN: training_of(one)["fingerprint"] if one else None,
        **(lineage_of_others(one) if one else {}),
        **({TRAIN_FOLDS: of_folds} if of_folds else {}),
        PREDICT: fingerprint,
    }


def _measurements(generated: Generated, count: int, answers: Mapping[Asked, Prediction]) -> dict[str, Any]:
    return {
        "generated": generated.count,
        "reused": count - generated.count,
        "generation_seconds": generated.seconds,
        "loading_seconds": generated.loading_seconds,
        **_times_of(answers),
        **_said_by_servers(answers.values()),
        # Of the answers, whichever job generated them; None for those of older releases.
        "batch_sizes": sorted({answer.batch_size for answer in answers.values()}, key=lambda size: size or 0),
        "gpus": list(generated.gpus),
        "gpus_used": list(generated.gpus_used),
    }


def _times_of(answers: Mapping[Asked, Prediction]) -> dict[str, Any]:
    """Return how long generating the answers took, and when it was, whichever job did it.

    Returns:
        ``answer_seconds`` (wall time, without loading a model), ``timed_answers`` (number of answers with a known
        time), ``answer_joules`` (energy of the GPUs; None if it is not known of all answers), and ``answered`` (times
        of the first and the last answer; None if unknown).
    """
    seconds = [answer.seconds for answer in answers.values() if answer.seconds is not None]
    energy = added([answer.joules for answer in answers.values()])
    times = [answer.at for answer in answers.values() if answer.at is not None]
    return {
        "answer_seconds": round(sum(seconds), 2),
        "timed_answers": len(seconds),
        "answer_joules": None if energy is None else round(energy, 2),
        "answered": [min(times), max(times)] if times else None,
    }


def _said_by_servers(answers: Iterable[Prediction]) -> dict[str, Any]:
    """Return the tokens of requests and answers, as a server counts and charges them, and its fingerprints.

    Empty for answers of models on this machine. A request that was repeated because its answer got lost counts once.
    """
    asked = [answer for answer in answers if answer.prompt_tokens is not None]
    if not asked:
        return {}
    return {
        "tokens": {
            "prompt": sum(answer.prompt_tokens or 0 for answer in asked),
            "completion": sum(answer.new_tokens or 0 for answer in asked),
        },
        "system_fingerprints": sorted({answer.system_fingerprint for answer in asked if answer.system_fingerprint}),
    }


def _row(question: Question, prediction: Prediction) -> dict[str, Any]:
    return {
        "id": question.sample["id"],
        "user": question.user,
        **({"model": question.model} if question.model else {}),
        "text": prediction.text,
        "new_tokens": prediction.new_tokens,
        "stopped": prediction.stopped,
        "batch_size": prediction.batch_size,
    }
