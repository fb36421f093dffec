"""Predicting a batch of users: what the store has is read, the rest is generated. Imports torch only for the rest."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from usertune import gpu
from usertune.data.samples import Sample, read_user, request_digest
from usertune.errors import UserError
from usertune.files import read_json, write_json
from usertune.fingerprint import digest, step_fingerprint
from usertune.progress import Progress
from usertune.store import Prediction, PredictionStore
from usertune.versions import installed_versions

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
        batch_size: samples generated at once; halved when memory runs out.
        gpus: GPUs to hold while generating; 0 generates on the CPU.

    Returns:
        The object written.

    Raises:
        UserError: an input is missing or damaged, or the weights were trained on another base model.
    """
    base = read_json(base_manifest)
    trained = read_json(train_manifest) if train_manifest else None
    if trained and trained["base_model"] != base["fingerprint"]:
        raise UserError(f"{train_manifest}: trained on another base model than {base_manifest}; train again")
    weights = trained["weights_fingerprint"] if trained else base["fingerprint"]
    model = {"base_model": base["fingerprint"], "weights": weights}
    store = PredictionStore(store_folder, step_fingerprint(recipe, model))
    users = [read_user(path) for path in user_manifests]
    samples = [sample for _, own in users for sample in own]
    stored = {manifest["user"]: store.read(manifest["user"]) for manifest, _ in users}
    requests = [(sample, request_digest(sample)) for sample in samples]
    # By user and request, so that a user's samples which ask the same are generated once.
    missing = {
        (sample["user"], request): sample for sample, request in requests if request not in stored[sample["user"]]
    }
    started = time.monotonic()
    devices: list[str] = []
    if missing:
        with gpu.lease(gpus) as devices:
            _generate(recipe, base, trained, train_manifest, list(missing.values()), dataset_root, store, batch_size)
        stored = {user: store.read(user) for user in stored}
    logger.info("%s: %d samples generated, %d were stored", experiment, len(missing), len(samples) - len(missing))
    rows = [_row(sample, stored[sample["user"]][request]) for sample, request in requests]
    result = {
        "step": "predict",
        "experiment": experiment,
        "users": [manifest["user"] for manifest, _ in users],
        "recipe": dict(recipe),
        "model": model,
        "fingerprint": step_fingerprint(
            recipe, {**model, "samples": {manifest["user"]: manifest["samples_sha256"] for manifest, _ in users}}
        ),
        "predictions_sha256": digest(rows),
        "generated": len(missing),
        "reused": len(samples) - len(missing),
        "generation_seconds": round(time.monotonic() - started, 2) if missing else 0.0,
        "gpus": devices,
        "versions": installed_versions(),
        "predictions": rows,
    }
    write_json(predictions_file, result)
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
) -> None:
    # Imported here, after the GPU was chosen and only when something is to be generated.
    from usertune.generate import Generator

    weights_folder = train_manifest.parent / trained["weights_folder"] if train_manifest and trained else None
    generator = Generator(
        base_folder=base["folder"],
        mode=trained["mode"] if trained else "vanilla",
        weights_folder=weights_folder,
        dtype=recipe["dtype"],
        pixels=recipe["pixels"],
        dataset_root=dataset_root,
        max_new_tokens=recipe["max_new_tokens"],
    )
    progress = Progress(len(samples), "samples")
    with store.writer() as writer:
        for batch in generator.answer(samples, batch_size):
            writer.append((sample["user"], request_digest(sample), prediction) for sample, prediction in batch)
            progress.advance(len(batch))


def _row(sample: Sample, prediction: Prediction) -> dict[str, Any]:
    return {
        "id": sample["id"],
        "user": sample["user"],
        "text": prediction.text,
        "new_tokens": prediction.new_tokens,
        "stopped": prediction.stopped,
    }
