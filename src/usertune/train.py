"""Training an experiment, or finding that it is already trained. Imports torch only when there is work."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from usertune import gpu
from usertune.base_model import model_files
from usertune.data.samples import Sample, read_user
from usertune.errors import UserError
from usertune.files import read_json, write_json, write_text
from usertune.fingerprint import digest, digest_folder, step_fingerprint
from usertune.versions import installed_versions

logger = logging.getLogger(__name__)

COMPLETE = "complete.json"
WEIGHTS = "weights"
LOSS_TABLE = "training_log.csv"


def train_experiment(
    recipe: Mapping[str, Any],
    execution: Mapping[str, Any],
    experiment: str,
    base_manifest: Path,
    train_manifests: Sequence[Path],
    validation_manifests: Sequence[Path],
    dataset_root: Path,
    manifest_file: Path,
    log_file: Path,
    gpus: int,
) -> dict[str, Any]:
    """Make sure that an experiment is trained, and write its manifest and its table of losses.

    Working files lie beside the manifest in a folder named by the fingerprint. Where that folder holds a
    complete result, nothing is trained; where it holds working checkpoints, training resumes from there.

    Args:
        recipe: the training recipe.
        execution: ``micro_batch``, ``gradient_checkpointing``, ``save_every_steps`` and ``loader_workers``:
            how to train, without effect on what comes out.
        experiment: name of the experiment.
        base_manifest: manifest of the base model.
        train_manifests: manifests of the users to train on.
        validation_manifests: manifests of the users on whom the validation loss is measured.
        dataset_root: folder of the raw data.
        manifest_file: JSON object to write.
        log_file: CSV to write: step, epoch, split, loss, learning_rate.
        gpus: GPUs to hold while training; 0 trains on the CPU.

    Returns:
        The manifest.

    Raises:
        UserError: an input is missing or damaged, or another process is training the same thing.
    """
    base = read_json(base_manifest)
    train, train_digests = _read_users(train_manifests)
    validation, validation_digests = _read_users(validation_manifests)
    inputs = {"base_model": base["fingerprint"], "train": train_digests, "validation": validation_digests}
    fingerprint = step_fingerprint(recipe, inputs)
    work = manifest_file.parent / fingerprint[:16]
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / ".lock", timeout=0):
            result = _completed(work)
            if result is None:
                with gpu.lease(gpus) as devices:
                    result = _train(recipe, execution, base, train, validation, dataset_root, work)
                result |= {"gpus": devices, "versions": installed_versions()}
                write_json(work / COMPLETE, result)
                _remove_working_checkpoints(work)
            else:
                logger.info("%s is already trained (fingerprint %s); nothing to do", experiment, fingerprint[:16])
    except Timeout:
        raise UserError(f"{work}: another process is training this experiment; wait for it or stop it") from None
    manifest = {
        "step": "train",
        "experiment": experiment,
        "mode": recipe["mode"],
        "fingerprint": fingerprint,
        "recipe": dict(recipe),
        "base_model": base["fingerprint"],
        "weights_folder": f"{work.name}/{WEIGHTS}",
        "train_samples": len(train),
        "validation_samples": len(validation),
        **result,
    }
    write_text(log_file, (work / LOSS_TABLE).read_text(encoding="utf-8"))
    write_json(manifest_file, manifest)
    return manifest


def _read_users(manifests: Sequence[Path]) -> tuple[list[Sample], dict[str, str]]:
    samples: list[Sample] = []
    digests = {}
    for path in manifests:
        manifest, own = read_user(path)
        samples.extend(own)
        digests[manifest["user"]] = manifest["samples_sha256"]
    return samples, digests


def _completed(work: Path) -> dict[str, Any] | None:
    """Return the recorded result if training ended and its files are as they were then."""
    if not (work / COMPLETE).exists():
        return None
    result = read_json(work / COMPLETE)
    if (work / LOSS_TABLE).exists() and digest_folder(work / WEIGHTS) == result["weights_files"]:
        return result
    logger.warning("%s: the weights are missing or damaged; training again", work)
    (work / COMPLETE).unlink()
    return None


def _train(
    recipe: Mapping[str, Any],
    execution: Mapping[str, Any],
    base: Mapping[str, Any],
    train: Sequence[Sample],
    validation: Sequence[Sample],
    dataset_root: Path,
    work: Path,
) -> dict[str, Any]:
    # Imported here, after the GPU was chosen and only when there is something to train.
    from usertune.finetune import FineTuning, fine_tune

    run = FineTuning(
        mode=recipe["mode"],
        training=recipe["training"],
        execution=execution,
        dtype=recipe["dtype"],
        pixels=recipe["pixels"],
        base_folder=Path(base["folder"]),
        dataset_root=dataset_root,
        train_samples=train,
        validation_samples=validation,
    )
    measurements = fine_tune(run, work, work / WEIGHTS, work / LOSS_TABLE)
    files = digest_folder(work / WEIGHTS)
    deciding = {name: files[name] for name in model_files(work / WEIGHTS)}
    return {**measurements, "weights_files": files, "weights_fingerprint": digest(deciding)}


def _remove_working_checkpoints(work: Path) -> None:
    for folder in work.glob("checkpoint-*"):
        shutil.rmtree(folder, ignore_errors=True)
