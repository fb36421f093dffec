"""Predicts a batch of users: reads stored answers and generates the others. Imports torch only to generate."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.manifest import step_manifest, write_result
from usertune.core.step_names import BASE_MODEL, PREDICT, PREPARE, TRAIN, TRAIN_FOLDS
from usertune.data.samples import read_user
from usertune.inference.context import asked_as
from usertune.inference.engine import Engine, EngineSettings
from usertune.inference.engines.catalogue import ENGINES, options_model
from usertune.inference.models_in_use import Found, ModelsInUse, models_in_use
from usertune.inference.prediction_store import Prediction
from usertune.inference.questions import Question
from usertune.inference.recipe import PredictRecipe
from usertune.inference.stored_answers import Asked, StoredAnswers, asked, plug_ins
from usertune.models.external_weights import lineage_of_others, training_of
from usertune.runtime.gpus import lease
from usertune.runtime.launchers import no_launcher
from usertune.runtime.locks import one_at_a_time
from usertune.runtime.progress import Progress
from usertune.runtime.provenance import Provenance, current_provenance, distinct

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictFiles:
    """Files of one prediction job.

    Attributes:
        base_model: manifest of the base model.
        weights: manifests of the experiment's trained weights: none for vanilla, one training for all users, or
            trainings on folds.
        users: manifests of the users' prepared data.
        dataset_root: folder of the raw data.
        store: folder of the prediction store, which keeps every generated batch at once.
        predictions: JSON object to write, with the prediction of every sample.
        start: manifest of the training whose weights the others started from; None for the base model.
        context: manifests of the prepared data of other users whose samples are in the prompts.
    """

    base_model: Path
    weights: Sequence[Path]
    users: Sequence[Path]
    dataset_root: Path
    store: Path
    predictions: Path
    start: Path | None = None
    context: Sequence[Path] = ()


@dataclass(frozen=True)
class Means:
    """What generation may use; it changes no answer.

    Attributes:
        batch_size: samples generated at once; halved when memory runs out. 0 generates none.
        gpus: GPUs to hold while generating; 0 generates on the CPU.
        engine: settings of the engine that are not part of the recipe.
    """

    batch_size: int
    gpus: int = 0
    engine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Generated:
    """Cost of generation: UUIDs of GPUs held and used, and seconds (``loading_seconds`` None: no model was loaded)."""

    count: int = 0
    gpus: Sequence[str] = ()
    gpus_used: Sequence[str] = ()
    seconds: float = 0.0
    loading_seconds: float | None = None


def predict_users(recipe: PredictRecipe, experiment: str, files: PredictFiles, means: Means) -> dict[str, Any]:
    """Collect the predictions of a batch of users, and generate those that the store does not have.

    Args:
        recipe: settings of generation.
        experiment: name of the experiment.
        files: files to read and write.
        means: what generation may use.

    Returns:
        The object written. ``generation_seconds`` and ``loading_seconds`` (None if no model was loaded) are of this
        call; ``answer_seconds``, ``timed_answers`` and ``answered`` (see `_times_of`) are of the answers, whichever
        call generated them.

    Raises:
        UserError: an input is missing or damaged, the weights were trained on another base model, from other weights or
            on other folds, or the store lacks answers and the batch size is 0.
    """
    weights = [Found.read(path) for path in files.weights]
    models = models_in_use(
        Found.read(files.base_model), weights, Found.read(files.start) if files.start else None, recipe.adapters
    )
    users = [(Found(path, manifest), samples) for path in files.users for manifest, samples in [read_user(path)]]
    manifests = [found.manifest for found, _ in users]
    others = {manifest["user"]: (manifest, samples) for manifest, samples in map(read_user, files.context)}
    questions = [
        question
        for found, samples in users
        for question in models.questions(asked_as(samples, recipe, found.manifest["user"], others), found)
    ]
    stores = StoredAnswers(files.store, recipe, models)
    with one_at_a_time(stores.lock_file(files.predictions.stem), f"predicting with {experiment}"):
        stored, generated = _complete_store(recipe, models, files, questions, stores, means)
    logger.info(
        "%s: %d samples generated, %d were stored", experiment, generated.count, len(questions) - generated.count
    )
    answers = {asked(question): stored[asked(question)] for question in questions}
    samples = {manifest["user"]: manifest["output"] for manifest in manifests}
    context = {manifest["user"]: manifest["output"] for manifest, _ in others.values()}
    step = step_manifest(recipe, {**models.inputs, "samples": samples, **({"context": context} if context else {})})
    result = {
        **step,
        "experiment": experiment,
        "users": [manifest["user"] for manifest in manifests],
        **_models(models, stores),
        "lineage": _lineage(models, manifests, step["fingerprint"]),
        "provenance": {TRAIN: _trained_with(models), PREDICT: stores.records_of(answers)},
        **_measurements(generated, len(questions), answers),
        "adapter_effect": stores.effect(),
        "files": {},
        "predictions": [_row(question, answers[asked(question)]) for question in questions],
    }
    write_result(files.predictions, result)
    return result


def _complete_store(
    recipe: PredictRecipe,
    models: ModelsInUse,
    files: PredictFiles,
    questions: Sequence[Question],
    stores: StoredAnswers,
    means: Means,
) -> tuple[dict[Asked, Prediction], Generated]:
    """Generate the missing answers; return all stored answers, and the cost of generation."""
    started = time.monotonic()
    who = [(question.model, question.user) for question in questions]
    stored = stores.read(who)
    # Equal questions of a user are generated once.
    missing = {asked(question): question for question in questions if asked(question) not in stored}
    if not missing:
        return stored, Generated()
    if not means.batch_size:
        folder = stores.stores[next(iter(missing.values())).model].folder
        raise UserError(f"{folder}: {len(missing)} answers are missing that existed when jobs were planned; run again")
    with lease(means.gpus) as devices, no_launcher():
        generated = _generate(recipe, models, files.dataset_root, list(missing.values()), stores, means)
    seconds = round(time.monotonic() - started, 2)
    return stores.read(who), replace(generated, count=len(missing), gpus=devices, seconds=seconds)


def _generate(
    recipe: PredictRecipe,
    models: ModelsInUse,
    dataset_root: Path,
    questions: Sequence[Question],
    stores: StoredAnswers,
    means: Means,
) -> Generated:
    """Generate the answers, and store each batch at once."""
    started = time.monotonic()
    # Imported here, after the GPU is chosen and only to generate.
    make_engine = ENGINES.load(recipe.engine)
    engine: Engine = make_engine(
        EngineSettings(
            base_folder=models.base_folder,
            mode=models.mode,
            weights_folder=models.models[""].weights_folder if "" in models.models else None,
            dtype=recipe.dtype,
            pixels=recipe.pixels,
            dataset_root=dataset_root,
            max_new_tokens=recipe.max_new_tokens,
            thinking=recipe.thinking,
            adapters=_adapters(models, questions),
            start=models.start_weights,
            options=options_model(recipe.engine).model_validate({**recipe.engine_settings, **means.engine}),
        )
    )
    provenance = current_provenance(PREDICT, engine.identity(), plug_ins(recipe, models.base.manifest))
    loading = round(time.monotonic() - started, 2)
    stores.remember_effects(engine.effects(questions))
    progress = Progress(len(questions), "samples")
    writer = stores.writer(provenance)
    for batch in engine.answer(questions, means.batch_size):
        writer.append(batch)
        progress.advance(len(batch))
    return Generated(gpus_used=engine.gpus(), loading_seconds=loading)


def _adapters(models: ModelsInUse, questions: Sequence[Question]) -> dict[str, Path]:
    """Return the folders of the weights that the questions name, by key; empty if one model answers all."""
    keys = dict.fromkeys(question.model for question in questions if question.model)
    folders = {key: models.models[key].weights_folder for key in keys}
    return {key: folder for key, folder in folders.items() if folder is not None}


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
        time), and ``answered`` (times of the first and the last answer; None if unknown).
    """
    seconds = [answer.seconds for answer in answers.values() if answer.seconds is not None]
    times = [answer.at for answer in answers.values() if answer.at is not None]
    return {
        "answer_seconds": round(sum(seconds), 2),
        "timed_answers": len(seconds),
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
