"""Predicting a batch of users: what the store has is read, the rest is generated. Imports torch only for the rest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.hashing import step_fingerprint
from usertune.core.manifest import read_result, write_result
from usertune.core.step_fingerprints import model_of, predict_fingerprint
from usertune.core.step_names import BASE_MODEL, PREDICT, PREPARE, TRAIN
from usertune.data.samples import Sample, read_user, request_digest
from usertune.inference.engine import Engine, EngineSettings
from usertune.inference.engines.catalogue import DEFAULT_ENGINE, ENGINES
from usertune.inference.prediction_store import Prediction, PredictionStore
from usertune.models.base_folder import from_record
from usertune.runtime.gpus import lease
from usertune.runtime.launchers import no_launcher
from usertune.runtime.locks import one_at_a_time
from usertune.runtime.progress import Progress
from usertune.runtime.provenance import UNKNOWN, Provenance, current_provenance, differences, distinct

logger = logging.getLogger(__name__)


def predict_users(
    recipe: Mapping[str, Any],
    experiment: str,
    base_manifest: Path,
    train_manifest: Path | None,
    user_manifests: Sequence[Path],
    dataset_root: Path,
    store_folder: Path,
    predictions_file: Path,
    batch_size: int,
    gpus: int,
) -> dict[str, Any]:
    """Collect the predictions of a batch of users, generating those that the store does not have.

    Args:
        recipe: the prediction recipe.
        experiment: name of the experiment.
        base_manifest: manifest of the base model.
        train_manifest: manifest of the experiment's training; None for vanilla.
        user_manifests: manifests of the users' prepared data.
        dataset_root: folder of the raw data.
        store_folder: folder of the prediction store; generated batches go there as soon as they are done.
        predictions_file: JSON object to write, with every sample's prediction.
        batch_size: samples generated at once; halved when memory runs out. 0: none, the store has all.
        gpus: GPUs to hold while generating; 0 generates on the CPU.

    Returns:
        The object written. ``generation_seconds`` and ``loading_seconds`` (None where no model was loaded) are those
        of this call; ``answer_seconds``, ``timed_answers`` and ``answered`` (see `_times_of`) are those of the
        answers, whenever they were generated.

    Raises:
        UserError: an input is missing or damaged, the weights were trained on another base model, or answers are not
            in the store and ``batch_size`` is 0.
    """
    base = read_result(base_manifest)
    base = {**base, "folder": str(from_record(base["folder"], base_manifest))}
    trained = read_result(train_manifest) if train_manifest else None
    if trained and trained[BASE_MODEL] != base["fingerprint"]:
        raise UserError(f"{train_manifest}: trained on another base model than {base_manifest}; train again")
    model = model_of(base, trained)
    store = PredictionStore(store_folder, step_fingerprint(recipe, model))
    users = [read_user(path) for path in user_manifests]
    samples = [sample for _, own in users for sample in own]
    requests = [(sample, request_digest(sample)) for sample in samples]
    started = time.monotonic()
    devices: list[str] = []
    computed_on: list[str] = []
    loading: float | None = None
    with one_at_a_time(store.folder / f".{predictions_file.stem}.lock", f"predicting with {experiment}"):
        names = [manifest["user"] for manifest, _ in users]
        stored = read_stored(store, names, recipe)
        # By user and request, so that a user's samples which ask the same are generated once.
        missing = {
            (sample["user"], request): sample for sample, request in requests if request not in stored[sample["user"]]
        }
        if missing and not batch_size:
            raise UserError(
                f"{store.folder}: {len(missing)} answers are missing, which were here when jobs were planned; run again"
            )
        if missing:
            with lease(gpus) as devices, no_launcher():
                computed_on, loading = _generate(
                    recipe, base, trained, train_manifest, list(missing.values()), dataset_root, store, batch_size
                )
            stored = read_stored(store, names, recipe)
    logger.info("%s: %d samples generated, %d were stored", experiment, len(missing), len(samples) - len(missing))
    answers = [stored[sample["user"]][request] for sample, request in requests]
    rows = [_row(sample, answer) for sample, answer in zip(samples, answers, strict=True)]
    fingerprint = predict_fingerprint(recipe, model, [manifest for manifest, _ in users])
    result = {
        "step": PREDICT,
        "experiment": experiment,
        "users": names,
        "recipe": dict(recipe),
        "model": model,
        "fingerprint": fingerprint,
        "lineage": {
            BASE_MODEL: base["fingerprint"],
            PREPARE: {manifest["user"]: manifest["fingerprint"] for manifest, _ in users},
            TRAIN: trained["fingerprint"] if trained else None,
            PREDICT: fingerprint,
        },
        "provenance": {
            TRAIN: trained["provenance"] if trained else [],
            PREDICT: _records_of(answers, store),
        },
        "store_folder": store.folder.name,
        "generated": len(missing),
        "reused": len(samples) - len(missing),
        "generation_seconds": round(time.monotonic() - started, 2) if missing else 0.0,
        "loading_seconds": loading,
        **_times_of({(sample["user"], request): stored[sample["user"]][request] for sample, request in requests}),
        "adapter_effect": store.effect(),
        # Of the answers, whenever they were generated; None for those of older releases.
        "batch_sizes": sorted({answer.batch_size for answer in answers}, key=lambda size: size or 0),
        "gpus": devices,
        "gpus_used": computed_on,
        "files": {},
        "predictions": rows,
    }
    write_result(predictions_file, result)
    return result


def _generate(
    recipe: Mapping[str, Any],
    base: Mapping[str, Any],
    trained: Mapping[str, Any] | None,
    train_manifest: Path | None,
    samples: Sequence[Sample],
    dataset_root: Path,
    store: PredictionStore,
    batch_size: int,
) -> tuple[list[str], float]:
    """Generate and store the answers; return the UUIDs of the GPUs that did, and the seconds until it could begin."""
    started = time.monotonic()
    # Imported here, after the GPU was chosen and only when something is to be generated.
    make_engine = ENGINES.load(recipe.get("engine", DEFAULT_ENGINE))
    engine: Engine = make_engine(
        EngineSettings(
            base_folder=Path(base["folder"]),
            mode=trained["mode"] if trained else "vanilla",
            weights_folder=train_manifest.parent / trained["weights_folder"] if train_manifest and trained else None,
            dtype=recipe["dtype"],
            pixels=recipe["pixels"],
            dataset_root=dataset_root,
            max_new_tokens=recipe["max_new_tokens"],
            thinking=recipe.get("thinking"),
        )
    )
    provenance = store.remember(current_provenance(PREDICT, engine.identity(), _plug_ins(recipe)))
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
    return engine.gpus(), loading


def _plug_ins(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    return (ENGINES.module(recipe.get("engine", DEFAULT_ENGINE)),)


def read_stored(
    store: PredictionStore, users: Sequence[str], recipe: Mapping[str, Any]
) -> dict[str, dict[str, Prediction]]:
    """Return the stored predictions of each user; a recipe with ``provenance`` leaves out those made otherwise."""
    accept = _made_as_now(store, recipe) if "provenance" in recipe else None
    return {user: store.read(user, accept) for user in users}


def _made_as_now(store: PredictionStore, recipe: Mapping[str, Any]) -> Callable[[Prediction], bool]:
    """Return whether a stored prediction was made with today's code and packages."""
    now = current_provenance(PREDICT, plug_ins=_plug_ins(recipe))
    current = {key for key, record in store.current_provenance().items() if not differences(record, now)}
    return lambda prediction: prediction.provenance in current


def _records_of(answers: Sequence[Prediction], store: PredictionStore) -> list[Provenance]:
    records = store.current_provenance()
    return distinct(records.get(key, UNKNOWN) for key in sorted({answer.provenance for answer in answers}))


def _times_of(answers: Mapping[tuple[str, str], Prediction]) -> dict[str, Any]:
    """Return how long generating the answers took and when that was, whichever job did it.

    Returns:
        ``answer_seconds`` (wall time, without loading a model) and ``timed_answers`` (how many answers that is known
        of), and ``answered``: the times of the first and the last answer, None if they are not known.
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
