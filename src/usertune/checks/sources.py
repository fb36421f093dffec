"""What is looked at while jobs are planned: that the sources are there, and the state of the raw images."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.hashing import digest, digest_file, file_states
from usertune.core.users import format_users
from usertune.data.readers.messages import describe_available, image_references, image_stats, user_file
from usertune.models.base_model import check_base_model, is_local, model_files
from usertune.study.files import SPLITS
from usertune.study.schema.experiment import Experiment
from usertune.study.schema.study import Study
from usertune.training.schedule import optimizer_steps, warm_up


def check_sources(study: Study, base_model: bool = True) -> None:
    """Check that the dataset, every user's raw file and a local base model are there.

    Args:
        study: the study.
        base_model: whether the base model is looked at too.

    Raises:
        UserError: something is missing; the message names the key of the study and says what to do.
    """
    root = Path(study.dataset.root)
    if not root.is_dir():
        hint = " (the demo's screens are drawn by: make demo-data)" if study.name == "demo" else ""
        raise UserError(f"dataset.root: the folder {root} does not exist{hint}")
    missing = {
        split: [user for user in getattr(study.users, split) if not user_file(root, user).is_file()] for split in SPLITS
    }
    lines = [
        f"users.{split}: no raw data in {root} for user {format_users(users)}"
        for split, users in missing.items()
        if users
    ]
    if lines:
        raise UserError("\n".join(lines) + f"; {describe_available(root)}")
    if not base_model:
        return
    _check_warm_up(study, root)
    base = study.base_model
    check_base_model(base.path, base.revision, {"min": base.min_pixels, "max": base.max_pixels})


def _check_warm_up(study: Study, root: Path) -> None:
    """Check that no warm-up in steps reaches the steps that there can be at most: skipped samples make them fewer."""
    for name, experiment in study.experiments.items():
        training = experiment.training
        if training is None or training.warmup_steps is None:
            continue
        samples = 0
        for user in study.users.train:
            with user_file(root, user).open("rb") as file:
                samples += sum(1 for line in file if line.strip())
            if optimizer_steps(samples, training.batch_size, training.epochs) > training.warmup_steps:
                break
        else:
            warm_up(training.model_dump(), samples, name)


def base_model_sources(study: Study) -> list[str]:
    """Return the files of a local base model, or nothing when it is a hub name."""
    path = study.base_model.path
    if not is_local(path):
        return []
    folder = Path(path).expanduser()
    return [str(folder / name) for name in model_files(folder)]


def base_model_state(study: Study) -> str:
    """Return a digest of sizes and times of a local base model's files; a hub name has none.

    Snakemake alone would miss a large file that was replaced by one with an older time.
    """
    if not is_local(study.base_model.path):
        return ""
    folder = Path(study.base_model.path).expanduser()
    return digest(file_states(folder, model_files(folder)))


def sources_state(study: Study, user: str) -> str:
    """Return a digest of the state of a user's raw data: size and time of the raw file, and its images.

    Images count as ``dataset.watch_images`` says: by size and time, by their bytes, or not at all.
    """
    root = Path(study.dataset.root)
    path = user_file(root, user)
    stat = path.stat()
    return digest([stat.st_size, stat.st_mtime_ns, _state_of_images(study, root, user)])


def _state_of_images(study: Study, root: Path, user: str) -> Any:
    if study.dataset.watch_images == "never":
        return "not watched"
    if study.dataset.watch_images == "stat":
        return image_stats(root, user)
    digests = {}
    for reference in image_references(user_file(root, user)):
        # What cannot be read is told when the user is prepared, with the line that names it.
        with suppress(OSError):
            if (path := root / reference).is_file():
                digests[reference] = digest_file(path)
    return digests


def gpus_here(name: str, experiment: Experiment, available: int) -> int:
    """Return how many of this machine's GPUs a training job takes; 0 where it has none, and the CPU does the work.

    Args:
        name: name of the experiment.
        experiment: the experiment.
        available: GPUs of this machine.

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
            f"{key}.gpus is {experiment.gpus}, but of this machine's GPUs {available} can be used; "
            f"set gpus: {available}"
        )
    if not available and experiment.strategy == "fsdp" and experiment.gpus > 1:
        raise UserError(
            f"{key} shares one model between {experiment.gpus} GPUs (parallel: {experiment.parallel}), but this "
            "machine has none; set gpus: 1, or parallel: ddp"
        )
    return min(experiment.gpus, available)
