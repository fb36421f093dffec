"""Weights of some steps that a training keeps: their folders and digests. Does not import torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from usertune.core.errors import FinalError
from usertune.core.hashing import digest, digest_folder, file_states
from usertune.models.base_folder import model_files
from usertune.training.schedule import Schedule, optimizer_steps

PREFIX = "kept-"


def kept_folder(work: Path, step: int) -> Path:
    """Return the folder of the weights of a step; if it exists, it is complete."""
    return work / f"{PREFIX}{step}"


def kept_steps(work: Path) -> list[int]:
    """Return the steps whose weights are kept, in order."""
    numbers = (path.name.removeprefix(PREFIX) for path in work.glob(f"{PREFIX}*") if path.is_dir())
    return sorted(int(number) for number in numbers if number.isdigit())


def describe_kept(work: Path) -> dict[str, Any]:
    """Return step -> ``folder`` (relative to that of the manifest), ``files`` and ``fingerprint`` of kept weights."""
    found = {}
    for step in kept_steps(work):
        folder = kept_folder(work, step)
        files = digest_folder(folder)
        fingerprint = digest({name: files[name] for name in model_files(folder)})
        found[str(step)] = {"folder": f"{work.name}/{folder.name}", "files": files, "fingerprint": fingerprint}
    return found


def with_states(kept: Mapping[str, Any], manifest_folder: Path) -> dict[str, Any]:
    """Return the entries of `describe_kept` with size and time of each file, as ``state``."""
    return {
        step: {**own, "state": file_states(manifest_folder / own["folder"], own["files"])} for step, own in kept.items()
    }


def missing_in(result: Mapping[str, Any], steps: Iterable[int]) -> list[int]:
    """Return the wanted steps whose weights a training did not keep.

    A training that stopped early has none of later steps; another training would not have them either.

    Args:
        result: the manifest of the training, or what it is made from.
        steps: the wanted steps.
    """
    return [step for step in steps if str(step) not in result.get("kept", {}) and step <= result["steps"]]


def remove_kept(work: Path) -> None:
    """Remove all kept weights, before a training that may differ in the last digits."""
    for step in kept_steps(work):
        shutil.rmtree(kept_folder(work, step))


def require_steps(training: Schedule, steps: Iterable[int], samples: int, name: str = "") -> None:
    """Check that a training takes all the steps whose weights it keeps.

    Args:
        training: the schedule.
        steps: the steps.
        samples: the number of training samples, or the most that there can be.
        name: name of the experiment, for the message.

    Raises:
        FinalError: it does not.
    """
    total = optimizer_steps(samples, training.batch_size, training.epochs)
    if beyond := [step for step in steps if step > total]:
        of = f"of experiment {name} " if name else ""
        raise FinalError(
            f"training.keep_checkpoints {of}names step {beyond[0]}, but training takes only {total} steps ({samples} "
            f"samples, batch_size {training.batch_size}, epochs {training.epochs:g}); name steps up to {total}"
        )
