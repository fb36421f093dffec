"""Trackers of experiments: which there are, what they need, and where a run goes. Does not import torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from usertune.core.hashing import digest
from usertune.core.recipe import Settings

# The trackers of the Trainer's `report_to` -> packages, one of which each needs.
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "comet_ml": ("comet_ml",),
    "clearml": ("clearml",),
    "swanlab": ("swanlab",),
    "dvclive": ("dvclive",),
    "neptune": ("neptune",),
    "dagshub": ("dagshub",),
    "azure_ml": ("azureml",),
    "codecarbon": ("codecarbon",),
    "flyte": ("flytekit",),
    "kubeflow": ("kubeflow",),
}
# Those that can also hold the summary of a study, by accelerate's trackers.
OF_SUMMARIES = ("tensorboard", "mlflow", "wandb", "trackio", "comet_ml", "clearml", "swanlab", "dvclive")
# Folder below the results for trackers that write files.
TRACKERS = "trackers"
# File in a training's working folder with the identity of its run at MLflow, so that a later attempt continues it.
MLFLOW_RUN = "mlflow_run_id"


class Tracking(Settings):
    """Where the losses of a training are reported while it runs."""

    trackers: tuple[str, ...]
    project: str
    """What the tracker groups runs by: the name of the study."""
    run: str
    """Name of the run: the experiment, and the users and fold of a training on folds."""
    folder: Path
    """Folder for trackers that write files."""


def missing_package(tracker: str) -> str | None:
    """Return the package that a tracker needs and that is not installed; None if there is one."""
    packages = PACKAGES[tracker]
    return None if any(find_spec(package) for package in packages) else packages[0]


def environment_of(tracking: Tracking, work: Path | None = None) -> dict[str, str | None]:
    """Return the environment variables by which trackers learn of a run; None removes one.

    Those that the user has set stay, but for the identity of a run.

    Args:
        tracking: the run.
        work: working folder of the training, whose attempts are one run; None for a run of one process.
    """
    usual = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tracking.folder.absolute()}/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": tracking.project,
        # Nothing goes to an address that the user has not named.
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_PROJECT": tracking.project,
        "WANDB_DIR": str(tracking.folder),
        "WANDB_LOG_MODEL": "false",
        "COMET_PROJECT_NAME": tracking.project,
        "CLEARML_PROJECT": tracking.project,
        "CLEARML_TASK": tracking.run,
        "SWANLAB_PROJECT": tracking.project,
        "TRACKIO_DIR": str(tracking.folder / "trackio"),
    }
    found: dict[str, str | None] = {name: os.environ.get(name, value) for name, value in usual.items()}
    base = os.environ.get("TENSORBOARD_LOGGING_DIR", str(tracking.folder / "tensorboard"))
    # Its runs are folders: another training of the same name, as after a change of settings, has one of its own.
    own = f"/{work.name[:8]}" if work is not None else ""
    found["TENSORBOARD_LOGGING_DIR"] = f"{base}/{tracking.run}{own}"
    known = work / MLFLOW_RUN if work is not None else None
    found["MLFLOW_RUN_ID"] = known.read_text(encoding="utf-8") if known is not None and known.exists() else None
    # Of the name too: experiments with the same settings have the same fingerprint.
    found["WANDB_RUN_ID"] = digest([tracking.run, work.name])[:16] if work is not None else None
    found["WANDB_RESUME"] = "allow" if work is not None else None
    return found


@contextmanager
def environment_set(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables, and restore them at the end."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
