"""What a study will need, experiment by experiment, before anything runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

from usertune.checks.estimates.disk import Disk, training_disk
from usertune.checks.estimates.machine import Machine, free_bytes
from usertune.checks.estimates.memory import Parts, prediction_memory
from usertune.checks.estimates.plan import COMFORTABLE, Change, Plan, Verdict, smallest_change, verdict
from usertune.checks.estimates.samples import Lengths, Unprepared, read_lengths
from usertune.checks.estimates.schedule import Reached, schedule_reached
from usertune.checks.estimates.speed import Speed, known_speed
from usertune.checks.estimates.trainings import Trainings, trainings_of
from usertune.core.errors import UserError
from usertune.core.formatting import byte_size
from usertune.data.readers.catalogue import get_reader
from usertune.models.base_folder import is_local
from usertune.models.hub import cached_snapshot
from usertune.models.model_shape import ModelShape, read_model_shape
from usertune.models.recipe import FreezeSettings, LoraSettings, Pixels
from usertune.pipeline import steps
from usertune.study.schema.experiment import Experiment
from usertune.study.schema.study import Study

# Samples that are looked at where a few seconds would be too long.
FEW_SAMPLES = 2_000
ALL_SAMPLES = 1 << 60
# Looks at a few raw samples of users without prepared ones (`usertune.checks.estimates.raw_samples`).
LookAtRaw = Callable[[Study, Sequence[str]], Unprepared]


@dataclass(frozen=True)
class TrainingEstimate:
    """What one training needs, and reaches.

    Attributes:
        plan: the settings that determine its memory.
        trained: number of trained weights.
        memory: part -> bytes in each process.
        verdict: whether they fit.
        change: the smallest change with which they do; None if they fit, or nothing helps.
        tokens: tokens of all epochs of all trainings.
        reached: steps and learning rates.
        speed: the speed of an earlier training; None if none is known.
        disk: what it writes.
        done: whether there is a result already, perhaps of other settings.
        count: number of trainings like this one: one for each fold of each user.
        loads: how often they load the model that they start from.
        assumed: whether the lengths of the samples are only assumed.
    """

    plan: Plan
    trained: int
    memory: Parts
    verdict: Verdict
    change: Change | None
    tokens: int
    reached: Reached
    speed: Speed | None
    disk: Disk
    done: bool
    count: int = 1
    loads: int = 1
    assumed: bool = False

    @property
    def need(self) -> int:
        """Bytes of memory in each process."""
        return sum(self.memory.values())

    @property
    def seconds(self) -> float | None:
        """Duration at the known speed."""
        return self.tokens / self.speed.tokens_per_second if self.speed else None


@dataclass(frozen=True)
class PredictionEstimate:
    """What one prediction job needs: part -> bytes, at the study's batch size, and with one sample at once."""

    memory: Parts
    verdict: Verdict
    alone: int


@dataclass(frozen=True)
class Estimate:
    """What a study needs.

    Attributes:
        shape: the base model.
        machine: where it runs.
        train: lengths of the training samples; None without training users.
        test: lengths of the test samples.
        trainings: experiment -> estimate.
        predictions: experiment -> estimate, without those whose engine needs no GPU.
        free_disk: free bytes of the results folder.
    """

    shape: ModelShape
    machine: Machine
    train: Lengths | None
    test: Lengths
    trainings: dict[str, TrainingEstimate] = field(default_factory=dict)
    predictions: dict[str, PredictionEstimate] = field(default_factory=dict)
    free_disk: int = 0

    @property
    def waiting(self) -> list[str]:
        """Experiments that are trained and have no result."""
        return [name for name, training in self.trainings.items() if not training.done]

    def disk(self, experiments: Collection[str]) -> int:
        """Return the bytes that these trainings write: all results, and the working files of those at once."""
        disks = [training.disk for name, training in self.trainings.items() if name in experiments]
        working = [disk.peak - disk.weights for disk in disks]
        return sum(disk.weights for disk in disks) + (sum if self.machine.is_cluster else _largest)(working)

    def problems(self, experiments: Collection[str] | None = None) -> list[str]:
        """Return what cannot work, with what to do: trainings that do not fit, and a disk that is too small.

        Lengths that are only assumed refuse nothing.

        Args:
            experiments: the experiments that are about to be trained; None: those without a result.
        """
        experiments = self.waiting if experiments is None else experiments
        if not any(name in experiments and not training.assumed for name, training in self.trainings.items()):
            return []
        found = [
            _too_large(name, training, self.machine)
            for name, training in self.trainings.items()
            if training.verdict == "too large" and name in experiments and not training.assumed
        ]
        if (written := self.disk(experiments)) > self.free_disk:
            found.append(
                f"results: {byte_size(self.free_disk)} are free, but trainings write {byte_size(written)} with their "
                "working checkpoints; free some space, or choose a folder on another disk"
            )
        return found


def estimate(
    study: Study, machine: Machine, limit: int = ALL_SAMPLES, look_at_raw: LookAtRaw | None = None
) -> Estimate:
    """Return what a study needs.

    Args:
        study: the study.
        machine: where it runs.
        limit: most prepared samples of each split whose sizes are read.
        look_at_raw: looks at raw samples if a split has no prepared ones; None: their images are assumed to be as large
            as the limit allows.

    Raises:
        UserError: the base model is not on this machine yet, or a file of it cannot be used.
    """
    folder = base_folder(study)
    shape = read_model_shape(folder, Pixels(min=study.base_model.min_pixels, max=study.base_model.max_pixels))
    look = look_at_raw or _count_raw
    train = _lengths(study, shape, folder, study.users.train, limit, look) if study.users.train else None
    test = _lengths(study, shape, folder, study.users.test, limit, look)
    estimated = Estimate(shape, machine, train, test, free_disk=free_bytes(Path(study.results)))
    for name, experiment in study.experiments.items():
        if trainings := trainings_of(study, name, train, test):
            estimated.trainings[name] = _training(study, name, shape, trainings, machine)
        if experiment.generated and study.engine_of(name).needs_gpu:
            estimated.predictions[name] = _prediction(study, name, shape, test, machine)
    return estimated


def base_folder(study: Study) -> Path:
    """Return the folder of the base model.

    Raises:
        UserError: it is a name on the hub, and this machine has no copy.
    """
    path, revision = study.base_model.path, study.base_model.revision
    if is_local(path):
        return Path(path).expanduser()
    snapshot = cached_snapshot(path, revision, os.environ)
    if snapshot is None:
        raise UserError(
            f"memory and steps are unknown: {path} is not on this machine yet; after snakemake base_model --profile "
            "local, usertune check reads its headers"
        )
    return snapshot


def _lengths(
    study: Study, shape: ModelShape, folder: Path, users: Sequence[str], limit: int, look_at_raw: LookAtRaw
) -> Lengths:
    manifests = [Path(study.results, steps.PREPARE.manifest.format(user=user)) for user in users]
    missing = [user for user, manifest in zip(users, manifests, strict=True) if not manifest.exists()]
    others = Unprepared()
    if missing:
        others = (look_at_raw if len(missing) == len(users) else _count_raw)(study, missing)
    return read_lengths(shape, folder, manifests, limit, others)


def _count_raw(study: Study, users: Sequence[str]) -> Unprepared:
    reader = get_reader(study.dataset.format, Path(study.dataset.root), study.dataset.options)
    return Unprepared(sum(reader.count(user) for user in users))


def _plan(study: Study, experiment: Experiment, device: Literal["gpu", "cpu"]) -> Plan:
    training = experiment.training
    assert training is not None
    lora = LoraSettings(**training.lora.model_dump())
    return Plan(
        weights=lora if experiment.mode == "lora" else FreezeSettings(**training.freeze.model_dump()),
        dtype=study.base_model.dtype,
        batch_size=training.batch_size,
        # The least that auto can choose.
        micro_batch_size=1 if training.micro_batch_size == "auto" else training.micro_batch_size,
        checkpointing=bool(training.gradient_checkpointing),
        processes=experiment.processes,
        strategy=experiment.strategy,
        device=device,
        lora=lora,
    )


def _training(study: Study, name: str, shape: ModelShape, own: Trainings, machine: Machine) -> TrainingEstimate:
    experiment = study.experiments[name]
    training = experiment.training
    assert training is not None
    plan = _plan(study, experiment, machine.device)
    memory = plan.memory(shape, own.lengths)
    available = machine.memory
    if available is not None and machine.device == "cpu":
        # All processes share the memory of the machine.
        available //= experiment.gpus
    fits = verdict(sum(memory.values()), available)
    helps = fits in ("tight", "too large") and available is not None
    reached = schedule_reached(training, own.samples)
    manifests = {other: _manifests(study, other) for other in study.experiments}
    disk = training_disk(
        shape,
        plan.weights,
        plan.dtype,
        reached.steps,
        training.save_every_steps,
        training.keep == "best",
        len(training.keep_checkpoints) if experiment.trained else 0,
    )
    return TrainingEstimate(
        plan=plan,
        trained=shape.trained(plan.weights),
        memory=memory,
        verdict=fits,
        change=smallest_change(plan, shape, own.lengths, available) if helps and available else None,
        tokens=round(own.tokens * training.epochs),
        reached=reached,
        speed=known_speed(chain.from_iterable(manifests.values()), name, experiment.mode, experiment.processes),
        disk=disk.times(own.count),
        done=all(path.exists() for path in manifests[name]),
        count=own.count,
        loads=own.loads,
        assumed=own.lengths.assumed,
    )


def _manifests(study: Study, experiment: str) -> list[Path]:
    """Return the manifests of the trainings of an experiment."""
    return [
        Path(study.results, step.manifest.format(**item.values))
        for step in (steps.TRAIN, steps.TRAIN_FOLDS)
        for item in step.items(study)
        if item.experiment == experiment
    ]


def _prediction(study: Study, name: str, shape: ModelShape, test: Lengths, machine: Machine) -> PredictionEstimate:
    new_tokens = study.max_new_tokens(name)
    size = min(study.evaluation.batch_size, max(1, test.samples))
    if context := study.experiments[name].context:
        test = test.with_history(shape, context.samples, context.images)
    dtype = study.base_model.dtype
    memory, alone = (
        prediction_memory(shape, dtype, test.largest_batch(count, prompt_only=True), new_tokens, machine.device)
        for count in (size, 1)
    )
    # The batch size is halved when memory runs out, so only one sample at once has to fit.
    return PredictionEstimate(memory, verdict(sum(memory.values()), machine.memory), sum(alone.values()))


def _too_large(name: str, training: TrainingEstimate, machine: Machine) -> str:
    assert machine.memory is not None
    need = f"training of {name} needs about {byte_size(training.need)}"
    there = f"{byte_size(machine.memory)} ({machine.source})"
    if training.change is not None:
        return (
            f"experiments.{name}: {need}, and there are {there}; the smallest change that fits: {training.change.words}"
        )
    wanted = byte_size(round(training.need / COMFORTABLE))
    return (
        f"experiments.{name}: {need}, and there are {there}; no smaller micro_batch_size, gradient_checkpointing, "
        f"max_pixels or mode makes it fit: use a smaller base model, or {wanted}"
    )


def _largest(values: Sequence[int]) -> int:
    # On one machine, trainings mostly run one after another.
    return max(values, default=0)
