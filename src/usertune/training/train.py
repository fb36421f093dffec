"""Training an experiment, or finding that it is already trained. Imports torch only when there is work."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usertune.core.clock import utc_now
from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.core.hashing import digest, digest_bytes, digest_file, digest_folder, file_states, list_files
from usertune.core.manifest import read_result, write_result
from usertune.core.step_fingerprints import train_fingerprint
from usertune.core.step_names import BASE_MODEL, TRAIN
from usertune.data.samples import Sample, read_user
from usertune.models.base_folder import from_record, model_files
from usertune.runtime.gpus import lease
from usertune.runtime.launchers import no_launcher
from usertune.runtime.locks import one_at_a_time
from usertune.runtime.provenance import UNKNOWN, Provenance, current_provenance, differences, distinct
from usertune.training import effort
from usertune.training.attempts import final_failures_kept
from usertune.training.distributed import launch
from usertune.training.micro_batch import micro_batch_of_attempt
from usertune.training.processes import ALONE, Processes
from usertune.training.schedule import warm_up

if TYPE_CHECKING:
    from usertune.training.callbacks import StopOnSignal

logger = logging.getLogger(__name__)

COMPLETE = "complete.json"
WEIGHTS = "weights"
LOSS_TABLE = "training_log.csv"
MAKERS = "provenance"


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
    processes: Processes = ALONE,
    attempt: int = 1,
) -> dict[str, Any]:
    """Make sure that an experiment is trained, and write its manifest and its table of losses.

    Working files lie beside the manifest in a folder named by the fingerprint. Where that folder holds a
    complete result, nothing is trained; where it holds working checkpoints, training resumes from there. If another
    process is at it, this one waits and finds it done. A recipe with ``provenance`` counts only what was made with
    today's code and packages.

    Args:
        recipe: the training recipe.
        execution: ``micro_batch_size``, ``gradient_checkpointing``, ``save_every_steps`` and
            ``dataloader_num_workers``:
            how to train, with no effect on more than the last digits.
        experiment: name of the experiment.
        base_manifest: manifest of the base model.
        train_manifests: manifests of the users to train on.
        validation_manifests: manifests of the users on whom the validation loss is measured.
        dataset_root: folder of the raw data.
        manifest_file: JSON object to write.
        log_file: CSV to write: step, epoch, split, loss, learning_rate.
        gpus: GPUs to hold while training; 0 trains on the CPU.
        processes: how many train together, and where; with no effect on more than the last digits.
        attempt: 1, 2, ... in one run of the workflow; later ones take fewer samples at once if memory ran out,
            and end at once if the one before ended with a `FinalError`.

    Returns:
        The manifest.

    Raises:
        FinalError: no further attempt of this run is made.
        LackOfMemoryError: another attempt takes fewer samples at once.
        UserError: an input is missing or damaged, or several processes cannot work together as asked.
    """
    base = read_result(base_manifest)
    base = {**base, "folder": str(from_record(base["folder"], base_manifest))}
    train, train_users = read_users(train_manifests)
    validation, validation_users = read_users(validation_manifests)
    fingerprint = train_fingerprint(recipe, base, train_users, validation_users)
    work = work_folder(manifest_file, fingerprint)
    work.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(work / ".lock", f"training {experiment}"):
        if "provenance" in recipe:
            _discard_what_others_made(work)
        result = _completed(work)
        if result is None:
            # Before a GPU is waited for: a study's training settings may not fit its samples.
            warm_up(recipe["training"], len(train), experiment)
            share = recipe["training"]["batch_size"] // processes.world_size
            with (
                final_failures_kept(work, attempt),
                lease(gpus) as devices,
                micro_batch_of_attempt(work, attempt, execution["micro_batch_size"], share) as micro_batch_size,
            ):
                how = {**execution, "micro_batch_size": micro_batch_size}
                task = {
                    "recipe": recipe,
                    "execution": how,
                    "base_folder": base["folder"],
                    "train_manifests": [str(path) for path in train_manifests],
                    "validation_manifests": [str(path) for path in validation_manifests],
                    "dataset_root": str(dataset_root),
                    "work": str(work),
                }
                if processes.world_size > 1:
                    measured = launch.train_together(task, processes, work)
                else:
                    with no_launcher():
                        measured = train_in_this_process(task)
                result = {**measured, **_digests(work), "execution": how, "finished": utc_now()}
            result["gpus"] = devices
            write_result(work / COMPLETE, result)
            effort.forget(work)
            _remove_working_checkpoints(work)
        else:
            logger.info("%s is already trained (fingerprint %s); nothing to do", experiment, fingerprint[:16])
    losses = (work / LOSS_TABLE).read_text(encoding="utf-8")
    manifest = {
        "step": TRAIN,
        "experiment": experiment,
        "mode": recipe["mode"],
        "fingerprint": fingerprint,
        "recipe": dict(recipe),
        BASE_MODEL: base["fingerprint"],
        "lineage": {BASE_MODEL: base["fingerprint"], TRAIN: fingerprint},
        "weights_folder": f"{work.name}/{WEIGHTS}",
        "weights_state": file_states(work / WEIGHTS, list_files(work / WEIGHTS)),
        "train_samples": len(train),
        "validation_samples": len(validation),
        **result,
        "files": {log_file.name: digest_bytes(losses.encode("utf-8"))},
    }
    write_text(log_file, losses)
    write_result(manifest_file, manifest)
    return manifest


def work_folder(manifest_file: Path, fingerprint: str) -> Path:
    """Return the folder of working checkpoints and weights of a training, beside its manifest."""
    return manifest_file.parent / fingerprint[:16]


def read_users(paths: Sequence[Path]) -> tuple[list[Sample], list[dict[str, Any]]]:
    """Return the samples of all users, and the manifest of each."""
    users = [read_user(path) for path in paths]
    return [sample for _, own in users for sample in own], [manifest for manifest, _ in users]


def _completed(work: Path) -> dict[str, Any] | None:
    """Return the recorded result if training ended and its files are as they were then."""
    if not (work / COMPLETE).exists():
        return None
    try:
        result = read_result(work / COMPLETE)
        losses = (work / LOSS_TABLE).read_bytes()
        if digest_bytes(losses) == result["losses_sha256"] and digest_folder(work / WEIGHTS) == result["weights_files"]:
            return result
    except (UserError, OSError) as problem:
        logger.warning("%s", problem)
    logger.warning("%s: the weights or the losses are missing or damaged; training again", work)
    (work / COMPLETE).unlink()
    return None


def _discard_what_others_made(work: Path) -> None:
    """Remove results and checkpoints to which other code or packages than today's contributed."""
    now = current_provenance(TRAIN)
    for path in (work / COMPLETE, work / f"{MAKERS}.json"):
        try:
            records = read_result(path)["provenance"] if path.exists() else []
        except UserError as problem:
            logger.warning("%s", problem)
            records = [UNKNOWN]
        if changes := [change for record in records for change in differences(record, now)]:
            logger.info("made with other code or packages (%s); training again", ", ".join(changes))
            _remove_working_checkpoints(work)
            effort.forget(work)
            for stale in (work / COMPLETE, work / f"{MAKERS}.json"):
                stale.unlink(missing_ok=True)


def remember_maker(work: Path, device: str) -> list[Provenance]:
    """Note what this process trains with; return that and what the attempts that it resumes trained with."""
    path = work / f"{MAKERS}.json"
    resumed = any(work.glob("checkpoint-*"))
    try:
        before = read_result(path)["provenance"] if resumed and path.exists() else []
    except UserError as problem:
        logger.warning("%s", problem)
        before = [UNKNOWN]
    makers = distinct([*before, current_provenance(TRAIN, device)])
    write_result(path, {"provenance": makers})
    return makers


def train_in_this_process(
    task: Mapping[str, Any], processes: Processes = ALONE, rank: int = 0, stop: StopOnSignal | None = None
) -> dict[str, Any]:
    """Train as one of ``processes``, or alone.

    Args:
        task: the training as JSON: recipe, execution settings, and the paths of base model, data and working folder.
        processes: how many train together.
        rank: the number of this process; the first one notes what it trains with.
        stop: how the run learns that it is to stop; None listens to this process's signals.

    Returns:
        What was measured (see `usertune.training.finetune.fine_tune`), and the ``provenance``: empty but in the first.
    """
    # Imported here, after the GPU was chosen and only when there is something to train.
    from usertune.models.qwen3_vl import device_name
    from usertune.training.finetune import FineTuning, fine_tune

    recipe, work = task["recipe"], Path(task["work"])
    makers = remember_maker(work, device_name()) if rank == 0 else []
    run = FineTuning(
        mode=recipe["mode"],
        training=recipe["training"],
        execution=task["execution"],
        dtype=recipe["dtype"],
        pixels=recipe["pixels"],
        thinking=recipe.get("thinking"),
        base_folder=Path(task["base_folder"]),
        dataset_root=Path(task["dataset_root"]),
        train_samples=read_users([Path(path) for path in task["train_manifests"]])[0],
        validation_samples=read_users([Path(path) for path in task["validation_manifests"]])[0],
        processes=processes,
    )
    return {**fine_tune(run, work, work / WEIGHTS, work / LOSS_TABLE, stop), "provenance": makers}


def _digests(work: Path) -> dict[str, Any]:
    files = digest_folder(work / WEIGHTS)
    deciding = {name: files[name] for name in model_files(work / WEIGHTS)}
    return {
        "losses_sha256": digest_file(work / LOSS_TABLE),
        "weights_files": files,
        "weights_fingerprint": digest(deciding),
    }


def _remove_working_checkpoints(work: Path) -> None:
    for pattern in ("checkpoint-*", "best-*"):
        for path in work.glob(pattern):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
