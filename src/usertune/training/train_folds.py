"""Trains on folds of test users' own samples: one adapter or model per user and fold, or per fold of all users.

A job trains several users over one load of the base model. Each fold has its own fingerprint, working folder and lock,
so a job that is repeated trains only what is missing or changed. Imports torch only to train.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.core.hashing import digest, digest_bytes, file_states, list_files, step_fingerprint
from usertune.core.manifest import read_manifest, step_manifest, write_result
from usertune.core.step_names import BASE_MODEL, PREPARE, TRAIN, TRAIN_FOLDS
from usertune.core.users import batch_label
from usertune.data.folds import folds_of, held_out, limited, require_apart, training_part
from usertune.data.samples import Sample, read_user
from usertune.models.base_folder import from_record
from usertune.models.families.catalogue import recorded_module
from usertune.models.recipe import StartWeights
from usertune.runtime.gpus import lease
from usertune.runtime.large_imports import large_imports
from usertune.runtime.launchers import no_launcher
from usertune.runtime.locks import one_at_a_time
from usertune.runtime.progress import part_of
from usertune.runtime.provenance import distinct
from usertune.training.loader_workers import socket_folder
from usertune.training.recipe import Execution, TrainFoldsRecipe
from usertune.training.schedule import optimizer_steps, warm_up
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
    from usertune.models.reused import ReusedModel

logger = logging.getLogger(__name__)

Manifest = Mapping[str, Any]
# In the paths of results: the user, or the label of several users.
LABEL = "{user}"


@dataclass(frozen=True)
class FoldFiles:
    """Files of one job.

    Attributes:
        base_model: manifest of the base model.
        start: manifest of the training whose weights all folds start from; None: the base model.
        dataset_root: folder of the raw data.
        manifest: path of the JSON object to write for each training's users; {user} stands for the user, or for
            the label of several. The working folders are next to it.
        losses: path of the CSV to write for each: fold, step, epoch, split, loss, learning_rate.
    """

    base_model: Path
    start: Path | None
    dataset_root: Path
    manifest: str
    losses: str


class Part(NamedTuple):
    """The training for one fold.

    Attributes:
        fold: its number, from 1.
        train: samples to train on.
        test: samples that the trained model will be asked.
        held_out: user -> digest of the ids of these samples, see `usertune.data.folds.held_out`.
        copies_left_out: number of samples of other folds that are copies of test samples.
        fingerprint: digest of all that decides the weights.
    """

    fold: int
    train: list[Sample]
    test: list[Sample]
    held_out: dict[str, str]
    copies_left_out: int
    fingerprint: str


def fold_inputs(base: Manifest, start: Manifest | None, users: Sequence[Manifest]) -> dict[str, Any]:
    """Return the digests of the inputs of trainings on folds, by role, from their manifests."""
    return {
        BASE_MODEL: base["output"],
        **({"start": start["output"]} if start else {}),
        "samples": {manifest["user"]: manifest["output"] for manifest in users},
    }


def parts_of(
    recipe: TrainFoldsRecipe, base: Manifest, start: Manifest | None, samples: Sequence[Sequence[Sample]]
) -> list[Part]:
    """Return the training of each fold of some users together.

    Args:
        recipe: settings.
        base: manifest of the base model.
        start: manifest of the training to start from; None: the base model.
        samples: the samples of each user.

    Raises:
        UserError: a user has too few samples or episodes for the folds, or none for a training.
        RuntimeError: a training would see what its model is asked.
    """
    folds = [folds_of(own, recipe.folds) for own in samples]
    found = []
    for fold in range(1, recipe.folds.count + 1):
        cut = list(zip(samples, folds, strict=True))
        test = [sample for own, fold_of in cut for sample in own if fold_of[sample["id"]] == fold]
        asked = test if len(cut) > 1 else None
        parts = [training_part(own, fold_of, fold, asked) for own, fold_of in cut]
        chosen = [limited(part.samples, recipe.samples, recipe.training.seed) for part in parts]
        train = [sample for own in chosen for sample in own]
        if not train:
            raise UserError(f"fold {fold}: no sample is left for training, because all are copies of test samples")
        require_apart(train, test, recipe.folds)
        inputs = {key: value for key, value in fold_inputs(base, start, ()).items() if key != "samples"}
        fingerprint = step_fingerprint(recipe.of_fold.as_json(), {**inputs, "samples": _digest_of(train)})
        out = {own[0]["user"]: held_out(fold_of)[fold] for own, fold_of in cut}
        found.append(Part(fold, train, test, out, sum(part.copies_left_out for part in parts), fingerprint))
    return found


def _digest_of(samples: Sequence[Sample]) -> str:
    """Return the digest of samples without the folder of their images, so that results can be moved."""
    return digest(
        [
            {
                **sample,
                "images": [{key: image[key] for key in image if key != "folder"} for image in sample["images"]],  # type: ignore[literal-required]
            }
            for sample in samples
        ]
    )


@dataclass
class FoldJob:
    """One job: trains on the folds of several users, one training after another.

    Args:
        recipe: settings.
        execution: settings that change only the last digits.
        experiment: name of the experiment.
        files: files to read and write.
        gpus: GPUs to hold while training; 0 trains on the CPU.
        attempt: see `usertune.training.train.Allotment`.

    Raises:
        UserError: an input is missing or damaged, or the weights to start from were trained on another base model.
    """

    recipe: TrainFoldsRecipe
    execution: Execution
    experiment: str
    files: FoldFiles
    gpus: int = 0
    attempt: int = 1
    _held: ExitStack = field(default_factory=ExitStack)
    _devices: list[str] | None = None

    def __post_init__(self) -> None:
        self.base = read_manifest(self.files.base_model)
        self.start = read_manifest(self.files.start) if self.files.start else None
        if self.start and self.start["inputs"][BASE_MODEL] != self.base["output"]:
            raise UserError(
                f"{self.files.start}: trained on another base model than {self.files.base_model}; train it again"
            )

    def __enter__(self) -> FoldJob:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def train(self, users: Sequence[Path]) -> dict[str, Any]:
        """Train on the folds of some users together if necessary, and write their manifest and table of losses.

        Args:
            users: manifests of the users' prepared data.

        Returns:
            The manifest.

        Raises:
            UserError: see `parts_of` and `usertune.training.working_folder.attempted`.
        """
        read = [read_user(path) for path in users]
        manifests = [manifest for manifest, _ in read]
        label = batch_label([manifest["user"] for manifest in manifests])
        manifest_file, losses_file = (
            Path(path.replace(LABEL, label)) for path in (self.files.manifest, self.files.losses)
        )
        parts = parts_of(self.recipe, self.base, self.start, [samples for _, samples in read])
        names = {part.fold: f"{self.experiment}, users {label}, fold {part.fold}" for part in parts}
        training = self.recipe.training
        for part in parts:
            # Raises before waiting for a GPU if the settings do not fit the samples.
            warm_up(training, len(part.train), names[part.fold])
        steps = [optimizer_steps(len(part.train), training.batch_size, training.epochs) for part in parts]
        folds, tables = {}, {}
        for number, part in enumerate(parts):
            work = work_folder(manifest_file, part.fingerprint)
            with part_of(sum(steps[:number]), sum(steps)):
                folds[str(part.fold)] = self._fold(part, work, names[part.fold])
            tables[part.fold] = (work / LOSS_TABLE).read_text(encoding="utf-8")
        losses = _joined(tables)
        manifest = {
            **self._manifest(manifests, folds),
            "files": {losses_file.name: digest_bytes(losses.encode("utf-8"))},
        }
        write_text(losses_file, losses)
        write_result(manifest_file, manifest)
        return manifest

    def _manifest(self, users: Sequence[Manifest], folds: Mapping[str, Manifest]) -> dict[str, Any]:
        output = digest({fold: result["weights_fingerprint"] for fold, result in folds.items()})
        step = step_manifest(self.recipe, fold_inputs(self.base, self.start, users), output)
        return {
            **step,
            "experiment": self.experiment,
            "users": [manifest["user"] for manifest in users],
            "mode": self.recipe.mode,
            "scope": self.recipe.scope,
            "lineage": {
                BASE_MODEL: self.base["output"],
                PREPARE: {manifest["user"]: manifest["fingerprint"] for manifest in users},
                **({TRAIN: self.start["fingerprint"]} if self.start else {}),
                TRAIN_FOLDS: step["fingerprint"],
            },
            "folds": folds,
            "provenance": distinct([record for result in folds.values() for record in result["provenance"]]),
        }

    def _fold(self, part: Part, work: Path, name: str) -> dict[str, Any]:
        """Train for a fold if necessary; return its entry of the manifest."""
        result = self._trained(part, work, name)
        return {
            "fingerprint": part.fingerprint,
            "weights_folder": f"{work.name}/{WEIGHTS}",
            "weights_state": file_states(work / WEIGHTS, list_files(work / WEIGHTS)),
            "train_samples": len(part.train),
            "test_samples": len(part.test),
            "held_out": part.held_out,
            "copies_left_out": part.copies_left_out,
            **result,
        }

    def _trained(self, part: Part, work: Path, name: str) -> dict[str, Any]:
        """Train for a fold, unless its working folder has the complete result; return the result."""
        work.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(work / ".lock", f"training {name}"):
            if self.recipe.provenance is not None:
                discard_mismatched(work, TRAIN_FOLDS, recorded_module(self.base))
            result = completed(work)
            if result is not None:
                logger.info("%s: already trained (fingerprint %s); nothing to do", name, part.fingerprint[:16])
                return result
            if self.execution.dataloader_num_workers:
                socket_folder()
            logger.info("%s: %d samples, %d copies left out", name, len(part.train), part.copies_left_out)
            share = self.recipe.training.batch_size
            return attempted(
                work, self.attempt, self._reported(name), share, self._on_gpus(), partial(self._train, part, work)
            )

    def _reported(self, name: str) -> Execution:
        """Return the settings with which each training is a run of its own at a tracker."""
        tracking = self.execution.tracking
        if tracking is None:
            return self.execution
        return self.execution.model_copy(update={"tracking": tracking.model_copy(update={"run": name})})

    @contextmanager
    def _on_gpus(self) -> Iterator[list[str]]:
        """Hold the GPUs from the first training to the end of the job, because the loaded model stays on them."""
        if self._devices is None:
            self._devices = self._held.enter_context(lease(self.gpus))
        yield self._devices

    def _train(self, part: Part, work: Path, execution: Execution) -> dict[str, Any]:
        # Imported here, after the GPU is chosen and only to train.
        with large_imports():
            from usertune.models.loading import device_name
            from usertune.training.finetune import fine_tune
            from usertune.training.inputs import FineTuning

        provenance = record_provenance(work, TRAIN_FOLDS, device_name(), recorded_module(self.base))
        run = FineTuning(
            recipe=self.recipe.of_fold,
            execution=execution,
            base_folder=self._base_folder,
            dataset_root=self.files.dataset_root,
            train_samples=part.train,
            validation_samples=[],
            start=self._start_weights,
            reused=self._reused if self.recipe.mode == "lora" else None,
        )
        with no_launcher():
            return {**fine_tune(run, work, work / WEIGHTS, work / LOSS_TABLE, None), "provenance": provenance}

    @cached_property
    def _base_folder(self) -> Path:
        return from_record(self.base["folder"], self.files.base_model)

    @cached_property
    def _start_weights(self) -> StartWeights | None:
        if self.start is None or self.files.start is None:
            return None
        return StartWeights(mode=self.start["mode"], folder=self.files.start.parent / self.start["weights_folder"])

    @cached_property
    def _reused(self) -> ReusedModel:
        from usertune.models.loading import load_start
        from usertune.models.reused import ReusedModel

        return ReusedModel(lambda: load_start(self._base_folder, self._start_weights, self.recipe.dtype))


def _joined(tables: Mapping[int, str]) -> str:
    """Return tables of losses as one, with the fold as the first column."""
    joined = io.StringIO()
    writer = csv.writer(joined, lineterminator="\n")
    for number, (fold, table) in enumerate(tables.items()):
        header, *rows = csv.reader(io.StringIO(table))
        if not number:
            writer.writerow(["fold", *header])
        writer.writerows([fold, *row] for row in rows)
    return joined.getvalue()
