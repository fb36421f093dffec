"""Checks before jobs are planned: the sources exist, and this machine can run the study."""

from __future__ import annotations

from pathlib import Path

from usertune.checks.elsewhere import check_elsewhere
from usertune.checks.freshness import Freshness
from usertune.core.errors import UserError
from usertune.core.users import format_users
from usertune.data.folds import too_few_of
from usertune.data.reader import Reader, describe_available
from usertune.data.readers.catalogue import get_reader
from usertune.models.base_model import check_base_model
from usertune.models.recipe import Pixels
from usertune.pipeline import steps
from usertune.study.files import SPLITS
from usertune.study.schema.experiment import Experiment
from usertune.study.schema.study import Study
from usertune.training.kept_files import require_steps
from usertune.training.schedule import optimizer_steps, warm_up


def check_sources(study: Study, base_model: bool = True) -> None:
    """Check that the dataset, every user's raw data and a local base model exist.

    Args:
        study: the study.
        base_model: whether to check warm-up and base model too.

    Raises:
        UserError: something is missing; the message names the key of the study and says what to do.
    """
    root = Path(study.dataset.root)
    if not root.is_dir():
        hint = " (make demo-data draws the demo's screens)" if study.name == "demo" else ""
        raise UserError(f"dataset.root: the folder {root} does not exist{hint}")
    reader = get_reader(study.dataset.format, root, study.dataset.options)
    there = set(reader.users())
    missing = {split: [user for user in getattr(study.users, split) if user not in there] for split in SPLITS}
    lines = [
        f"users.{split}: no raw data in {root} for user {format_users(users)}"
        for split, users in missing.items()
        if users
    ]
    if lines:
        raise UserError("\n".join(lines) + f"; {describe_available(reader)}")
    if not base_model:
        return
    check_elsewhere(study)
    _check_warm_up(study, reader)
    base = study.base_model
    check_base_model(base.path, base.revision, Pixels(min=base.min_pixels, max=base.max_pixels))


def _check_warm_up(study: Study, reader: Reader) -> None:
    """Check that each `warmup_steps` is below the maximum number of steps, which skipped samples reduce.

    Steps whose weights are kept must not be above that number either.
    """
    for name, experiment in study.experiments.items():
        training = experiment.training
        if training is None:
            continue
        kept = training.keep_checkpoints if experiment.trained else ()
        needed = max((training.warmup_steps or 0, *kept))
        if not needed:
            continue
        samples = 0
        for user in study.users.train:
            samples += reader.count(user)
            if optimizer_steps(samples, training.batch_size, training.epochs) > needed:
                break
        else:
            warm_up(training, samples, name)
            require_steps(training, kept, samples, name)


def check_folds(freshness: Freshness) -> None:
    """Check that the prepared users have enough samples for the folds; preparing the others checks them.

    Raises:
        UserError: a user has too few; the message says what to do.
    """
    study = freshness.study
    if study.folds is None:
        return
    problems = []
    for user in study.users_with_folds:
        path = steps.PREPARE.manifest.format(user=user)
        manifest, _ = freshness.inspect(path)
        # Samples that will be prepared again say nothing.
        if manifest and (few := too_few_of(user, manifest, study.folds.settings)) and freshness.holds(path):
            problems.append(few)
    if problems:
        raise UserError("\n".join(problems))


def gpus_here(name: str, experiment: Experiment, available: int) -> int:
    """Return how many of this machine's GPUs a training job uses; 0 (CPU) if it has none.

    Args:
        name: name of the experiment.
        experiment: the experiment.
        available: number of usable GPUs of this machine.

    Raises:
        UserError: the study asks for more than this machine has.
    """
    key = f"experiments.{name}"
    if experiment.nodes > 1:
        raise UserError(
            f"{key}.nodes is {experiment.nodes}, but this run has one machine; run it on a cluster "
            "(--profile slurm), or set nodes: 1"
        )
    if 0 < available < experiment.gpus:
        raise UserError(
            f"{key}.gpus is {experiment.gpus}, but this machine has {available} usable; set gpus: {available}"
        )
    if not available and experiment.strategy == "fsdp" and experiment.gpus > 1:
        raise UserError(
            f"{key} shares one model between {experiment.gpus} GPUs (parallel: {experiment.parallel}), but this "
            "machine has none; run it on a cluster (--profile slurm), or set gpus: 1, or parallel: ddp"
        )
    return min(experiment.gpus, available)
