"""Trains an experiment unless it is already trained. Imports torch only to train."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usertune.core.files import write_text
from usertune.core.hashing import (
    digest_bytes,
    file_states,
    list_files,
    step_fingerprint,
)
from usertune.core.manifest import read_manifest, step_manifest, write_result
from usertune.core.step_names import BASE_MODEL, TRAIN
from usertune.data.samples import Sample, read_user
from usertune.models.base_folder import from_record
from usertune.models.families.catalogue import module_here, recorded_module
from usertune.runtime.gpus import lease
from usertune.runtime.large_imports import large_imports
from usertune.runtime.launchers import no_launcher
from usertune.runtime.locks import one_at_a_time
from usertune.training.distributed import launch
from usertune.training.kept_files import require_steps, with_states
from usertune.training.loader_workers import socket_folder
from usertune.training.processes import ALONE, Processes
from usertune.training.recipe import Execution, TrainRecipe, TrainTask
from usertune.training.schedule import warm_up
from usertune.training.working_folder import (
    LOSS_TABLE,
    WEIGHTS,
    attempted,
    completed,
    discard_mismatched,
    record_provenance,
    work_folder,
)

if TYPE_CHECKING:
    from usertune.training.callbacks import StopOnSignal

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainFiles:
    """Files of one training.

    Attributes:
        base_model: manifest of the base model.
        train: manifests of the users to train on.
        validation: manifests of the users for the validation loss.
        dataset_root: folder of the raw data.
        manifest: JSON object to write; the working folder is next to it.
        losses: CSV to write: step, epoch, split, loss, learning_rate.
    """

    base_model: Path
    train: Sequence[Path]
    validation: Sequence[Path]
    dataset_root: Path
    manifest: Path
    losses: Path


@dataclass(frozen=True)
class Allotment:
    """Resources of one training attempt; they change only the last digits.

    Attributes:
        gpus: GPUs to hold while training; 0 trains on the CPU.
        processes: world size, nodes and strategy.
        attempt: 1, 2, ... in one run of the workflow. A later attempt takes fewer samples at once if memory ran out,
            and ends at once if the previous one raised a `FinalError`.
    """

    gpus: int = 0
    processes: Processes = ALONE
    attempt: int = 1


def train_experiment(
    recipe: TrainRecipe,
    execution: Execution,
    experiment: str,
    files: TrainFiles,
    allotment: Allotment = Allotment(),
) -> dict[str, Any]:
    """Train an experiment if necessary, and write its manifest and its table of losses.

    Working files are in a folder named by the fingerprint, next to the manifest. If this folder has a complete result,
    it is reused; if it has working checkpoints, training resumes from them. If another process is training the
    experiment, this one waits and reuses the result. With ``provenance`` in the recipe, only results and checkpoints
    made with the current code and packages count.

    Returns:
        The manifest.

    Raises:
        FinalError: another attempt would fail in the same way.
        LackOfMemoryError: memory ran out; another attempt takes fewer samples at once.
        UserError: an input is missing or damaged, or a process failed for a reason that the user can fix.
    """
    base = read_manifest(files.base_model)
    train, train_users = read_users(files.train)
    validation, validation_users = read_users(files.validation)
    inputs = train_inputs(base, train_users, validation_users)
    fingerprint = step_fingerprint(recipe.as_json(), inputs)
    work = work_folder(files.manifest, fingerprint)
    work.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(work / ".lock", f"training {experiment}"):
        if recipe.provenance is not None:
            discard_mismatched(work, TRAIN, recorded_module(base))
        result = completed(work, recipe.keep_checkpoints)
        if result is None:
            # These raise before waiting for a GPU if the settings fit neither the samples nor the machine.
            warm_up(recipe.training, len(train), experiment)
            require_steps(recipe.training, recipe.keep_checkpoints, len(train), experiment)
            if execution.dataloader_num_workers:
                socket_folder()
            result = _attempt(_task(recipe, execution, files, base, work), allotment)
        else:
            logger.info("%s is already trained (fingerprint %s); nothing to do", experiment, fingerprint[:16])
    losses = (work / LOSS_TABLE).read_text(encoding="utf-8")
    manifest = {
        **step_manifest(recipe, inputs, output=result["weights_fingerprint"]),
        "experiment": experiment,
        "mode": recipe.mode,
        "lineage": {BASE_MODEL: base["output"], TRAIN: fingerprint},
        "weights_folder": f"{work.name}/{WEIGHTS}",
        "weights_state": file_states(work / WEIGHTS, list_files(work / WEIGHTS)),
        "train_samples": len(train),
        "validation_samples": len(validation),
        **result,
        **({"kept": with_states(result["kept"], files.manifest.parent)} if result.get("kept") else {}),
        "files": {files.losses.name: digest_bytes(losses.encode("utf-8"))},
    }
    write_text(files.losses, losses)
    write_result(files.manifest, manifest)
    return manifest


def _task(
    recipe: TrainRecipe, execution: Execution, files: TrainFiles, base: Mapping[str, Any], work: Path
) -> TrainTask:
    return TrainTask(
        recipe=recipe,
        execution=execution,
        base_folder=from_record(base["folder"], files.base_model),
        train=tuple(files.train),
        validation=tuple(files.validation),
        dataset_root=files.dataset_root,
        work=work,
    )


def _attempt(task: TrainTask, allotment: Allotment) -> dict[str, Any]:
    """Train, and write the result into the working folder."""
    work, processes = task.work, allotment.processes

    def train(execution: Execution) -> dict[str, Any]:
        own = task.model_copy(update={"execution": execution})
        if processes.world_size > 1:
            return launch.train_together(own.as_json(), processes, work)
        with no_launcher():
            return train_in_this_process(own)

    share = task.recipe.training.batch_size // processes.world_size
    return attempted(work, allotment.attempt, task.execution, share, lease(allotment.gpus), train)


def train_inputs(
    base: Mapping[str, Any], train: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the digests of a training's inputs, by role, from the manifests of the base model and the users."""
    return {
        BASE_MODEL: base["output"],
        TRAIN: {manifest["user"]: manifest["output"] for manifest in train},
        "validation": {manifest["user"]: manifest["output"] for manifest in validation},
    }


def read_users(paths: Sequence[Path]) -> tuple[list[Sample], list[dict[str, Any]]]:
    """Return the samples of all users, and the manifest of each user."""
    users = [read_user(path) for path in paths]
    return [sample for _, own in users for sample in own], [manifest for manifest, _ in users]


def train_in_this_process(
    task: TrainTask, processes: Processes = ALONE, rank: int = 0, stop: StopOnSignal | None = None
) -> dict[str, Any]:
    """Train in this process, as one of ``processes``.

    Args:
        task: recipe, settings and inputs.
        processes: world size and strategy.
        rank: rank of this process; rank 0 records the provenance.
        stop: stops the run on a signal; None handles the signals of this process.

    Returns:
        The measurements (see `usertune.training.finetune.fine_tune`) and the ``provenance``, empty except in rank 0.
    """
    # Imported here, after the GPU is chosen and only to train.
    with large_imports():
        from usertune.models.loading import device_name
        from usertune.training.finetune import fine_tune
        from usertune.training.inputs import FineTuning

    work = task.work
    family = module_here(str(task.base_folder), None)
    provenance = record_provenance(work, TRAIN, device_name(), family) if rank == 0 else []
    run = FineTuning(
        recipe=task.recipe,
        execution=task.execution,
        base_folder=task.base_folder,
        dataset_root=task.dataset_root,
        train_samples=read_users(task.train)[0],
        validation_samples=read_users(task.validation)[0],
        processes=processes,
    )
    return {**fine_tune(run, work, work / WEIGHTS, work / LOSS_TABLE, stop), "provenance": provenance}
