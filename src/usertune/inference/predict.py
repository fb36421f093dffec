"""Predicts a batch of users: reads stored answers and generates the others. Imports torch only to generate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.hashing import step_fingerprint
from usertune.core.manifest import read_manifest, step_manifest, write_result
from usertune.core.step_names import BASE_MODEL, PREDICT, PREPARE, TRAIN
from usertune.data.samples import Sample, read_user, request_digest
from usertune.inference.engine import Engine, EngineSettings
from usertune.inference.engines.catalogue import ENGINES
from usertune.inference.prediction_store import Prediction, PredictionStore
from usertune.inference.recipe import PredictRecipe
from usertune.models.base_folder import from_record
from usertune.models.families.catalogue import recorded_module
from usertune.runtime.gpus import lease
from usertune.runtime.launchers import no_launcher
from usertune.runtime.locks import one_at_a_time
from usertune.runtime.progress import Progress
from usertune.runtime.provenance import UNKNOWN, Provenance, current_provenance, differences, distinct

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictFiles:
    """Files of one prediction job.

    Attributes:
        base_model: manifest of the base model.
        trained: manifest of the experiment's training; None for vanilla.
        users: manifests of the users' prepared data.
        dataset_root: folder of the raw data.
        store: folder of the prediction store, which keeps every generated batch at once.
        predictions: JSON object to write, with the prediction of every sample.
    """

    base_model: Path
    trained: Path | None
    users: Sequence[Path]
    dataset_root: Path
    store: Path
    predictions: Path


@dataclass(frozen=True)
class Model:
    """Manifests and folders of the base model and of the trained weights (None for vanilla)."""

    base: Mapping[str, Any]
    base_folder: Path
    trained: Mapping[str, Any] | None
    weights_folder: Path | None


@dataclass(frozen=True)
class Generated:
    """Cost of generation: UUIDs of GPUs held and used, and seconds (``loading_seconds`` None: no model was loaded)."""

    count: int = 0
    gpus: Sequence[str] = ()
    gpus_used: Sequence[str] = ()
    seconds: float = 0.0
    loading_seconds: float | None = None


def predict_users(
    recipe: PredictRecipe, experiment: str, files: PredictFiles, batch_size: int, gpus: int
) -> dict[str, Any]:
    """Collect the predictions of a batch of users, and generate those that the store does not have.

    Args:
        recipe: settings of generation.
        experiment: name of the experiment.
        files: files to read and write.
        batch_size: samples generated at once; halved when memory runs out. 0 generates none.
        gpus: GPUs to hold while generating; 0 generates on the CPU.

    Returns:
        The object written. ``generation_seconds`` and ``loading_seconds`` (None if no model was loaded) are of this
        call; ``answer_seconds``, ``timed_answers`` and ``answered`` (see `_times_of`) are of the answers, whichever
        call generated them.

    Raises:
        UserError: an input is missing or damaged, the weights were trained on another base model, or the store lacks
            answers and ``batch_size`` is 0.
    """
    model = _read_model(files)
    identity = model_of(model.base, model.trained)
    store = PredictionStore(files.store, step_fingerprint(recipe.as_json(), identity))
    users = [read_user(path) for path in files.users]
    names = [manifest["user"] for manifest, _ in users]
    requests = [(sample, request_digest(sample)) for _, own in users for sample in own]
    lock = store.folder / f".{files.predictions.stem}.lock"
    with one_at_a_time(lock, f"predicting with {experiment}"):
        stored, generated = _complete_store(recipe, model, files, requests, store, batch_size, gpus)
    logger.info(
        "%s: %d samples generated, %d were stored", experiment, generated.count, len(requests) - generated.count
    )
    answers = [(sample, request, stored[sample["user"]][request]) for sample, request in requests]
    inputs = {
        BASE_MODEL: model.base["output"],
        **({"weights": model.trained["output"]} if model.trained else {}),
        "samples": {manifest["user"]: manifest["output"] for manifest, _ in users},
    }
    step = step_manifest(recipe, inputs)
    result = {
        **step,
        "experiment": experiment,
        "users": names,
        "model": identity,
        "lineage": _lineage(model, [manifest for manifest, _ in users], step["fingerprint"]),
        "provenance": {
            TRAIN: model.trained["provenance"] if model.trained else [],
            PREDICT: _records_of([answer for _, _, answer in answers], store),
        },
        "store_folder": store.folder.name,
        **_measurements(generated, answers),
        "adapter_effect": store.effect(),
        "files": {},
        "predictions": [_row(sample, answer) for sample, _, answer in answers],
    }
    write_result(files.predictions, result)
    return result


def _complete_store(
    recipe: PredictRecipe,
    model: Model,
    files: PredictFiles,
    requests: Sequence[tuple[Sample, str]],
    store: PredictionStore,
    batch_size: int,
    gpus: int,
) -> tuple[dict[str, dict[str, Prediction]], Generated]:
    """Generate the missing answers; return the stored answers by user and request, and the cost of generation."""
    users = list({sample["user"]: None for sample, _ in requests})
    started = time.monotonic()
    stored = read_stored(store, users, recipe, model.base)
    # By user and request, so that identical requests of a user are generated once.
    missing = {
        (sample["user"], request): sample for sample, request in requests if request not in stored[sample["user"]]
    }
    if not missing:
        return stored, Generated()
    if not batch_size:
        raise UserError(
            f"{store.folder}: {len(missing)} answers are missing that existed when jobs were planned; run again"
        )
    with lease(gpus) as devices, no_launcher():
        generated = _generate(recipe, model, files.dataset_root, list(missing.values()), store, batch_size)
    seconds = round(time.monotonic() - started, 2)
    return read_stored(store, users, recipe, model.base), replace(
        generated, count=len(missing), gpus=devices, seconds=seconds
    )


def model_of(base: Mapping[str, Any], trained: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the digests of the base model and of the weights in use, from the manifests."""
    return {BASE_MODEL: base["output"], "weights": (trained or base)["output"]}


def _read_model(files: PredictFiles) -> Model:
    base = read_manifest(files.base_model)
    folder = from_record(base["folder"], files.base_model)
    if files.trained is None:
        return Model(base, folder, None, None)
    trained = read_manifest(files.trained)
    if trained["inputs"][BASE_MODEL] != base["output"]:
        raise UserError(f"{files.trained}: trained on another base model than {files.base_model}; train again")
    return Model(base, folder, trained, files.trained.parent / trained["weights_folder"])


def _measurements(generated: Generated, answers: Sequence[tuple[Sample, str, Prediction]]) -> dict[str, Any]:
    return {
        "generated": generated.count,
        "reused": len(answers) - generated.count,
        "generation_seconds": generated.seconds,
        "loading_seconds": generated.loading_seconds,
        **_times_of({(sample["user"], request): answer for sample, request, answer in answers}),
        # Of the answers, whichever job generated them; None for those of older releases.
        "batch_sizes": sorted({answer.batch_size for _, _, answer in answers}, key=lambda size: size or 0),
        "gpus": list(generated.gpus),
        "gpus_used": list(generated.gpus_used),
    }


def _lineage(model: Model, users: Sequence[Mapping[str, Any]], fingerprint: str) -> dict[str, Any]:
    return {
        BASE_MODEL: model.base["output"],
        PREPARE: {manifest["user"]: manifest["fingerprint"] for manifest in users},
        TRAIN: model.trained["fingerprint"] if model.trained else None,
        PREDICT: fingerprint,
    }


def _generate(
    recipe: PredictRecipe,
    model: Model,
    dataset_root: Path,
    samples: Sequence[Sample],
    store: PredictionStore,
    batch_size: int,
) -> Generated:
    """Generate the answers, and store each batch at once."""
    started = time.monotonic()
    # Imported here, after the GPU is chosen and only to generate.
    make_engine = ENGINES.load(recipe.engine)
    engine: Engine = make_engine(
        EngineSettings(
            base_folder=model.base_folder,
            mode=model.trained["mode"] if model.trained else "vanilla",
            weights_folder=model.weights_folder,
            dtype=recipe.dtype,
            pixels=recipe.pixels,
            dataset_root=dataset_root,
            max_new_tokens=recipe.max_new_tokens,
            thinking=recipe.thinking,
        )
    )
    provenance = store.remember(current_provenance(PREDICT, engine.identity(), _plug_ins(recipe, model.base)))
    loading = round(time.monotonic() - started, 2)
    store.remember_effect(engine.effect(samples))
    progress = Progress(len(samples), "samples")
    with store.writer() as writer:
        for batch in engine.answer(samples, batch_size):
            writer.append(
                (sample["user"], request_digest(sample), replace(prediction, provenance=provenance))
                for sample, prediction in batch
            )
            progress.advance(len(batch))
    return Generated(gpus_used=engine.gpus(), loading_seconds=loading)


def _plug_ins(recipe: PredictRecipe, base: Mapping[str, Any]) -> tuple[str, ...]:
    return (ENGINES.module(recipe.engine), *recorded_module(base))


def read_stored(
    store: PredictionStore, users: Sequence[str], recipe: PredictRecipe, base: Mapping[str, Any]
) -> dict[str, dict[str, Prediction]]:
    """Return each user's stored predictions; with ``provenance`` in the recipe, only those of the current code.

    Args:
        store: the predictions of the model.
        users: whose predictions.
        recipe: settings of generation.
        base: manifest of the base model, whose family is part of the code.
    """
    accept = _made_with_current_code(store, recipe, base) if recipe.provenance is not None else None
    return {user: store.read(user, accept) for user in users}


def _made_with_current_code(
    store: PredictionStore, recipe: PredictRecipe, base: Mapping[str, Any]
) -> Callable[[Prediction], bool]:
    """Return a predicate: whether a stored prediction was made with the current code and packages."""
    now = current_provenance(PREDICT, plug_ins=_plug_ins(recipe, base))
    current = {key for key, record in store.current_provenance().items() if not differences(record, now)}
    return lambda prediction: prediction.provenance in current


def _records_of(answers: Sequence[Prediction], store: PredictionStore) -> list[Provenance]:
    records = store.current_provenance()
    return distinct(records.get(key, UNKNOWN) for key in sorted({answer.provenance for answer in answers}))


def _times_of(answers: Mapping[tuple[str, str], Prediction]) -> dict[str, Any]:
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


def _row(sample: Sample, prediction: Prediction) -> dict[str, Any]:
    return {
        "id": sample["id"],
        "user": sample["user"],
        "text": prediction.text,
        "new_tokens": prediction.new_tokens,
        "stopped": prediction.stopped,
        "batch_size": prediction.batch_size,
    }
