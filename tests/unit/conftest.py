"""The tiny real base model, and small prepared data, for the tests of training and prediction; a clean process."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import calls
from tests.support.calls import NO_LIMITS
from tests.support.synthetic_study import SyntheticStudy
from usertune.data.samples import Sample, read_user
from usertune.demo.dataset import Counts, make_dataset
from usertune.models.base_model import describe_base_model
from usertune.models.recipe import BaseModelRecipe
from usertune.runtime.cpu_threads import limit_spinning
from usertune.runtime.signals import obeyed_signals

# Before torch is imported. The model is tiny: threads cost more than they give, above all on cores that are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")
limit_spinning()

BASE = Path(__file__).parents[2] / "demo" / "base"
SOURCE = Path(__file__).parents[2] / "src"
USERS = ("1", "2", "11", "12", "74")
COMPLETE: dict[str, Any] = {"samples": 3, "users_per_job": 2}
TRAINING = {
    "epochs": 2,
    "learning_rate": 2e-3,
    "schedule": "linear",
    "warmup_steps": 1,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "batch_size": 4,
    "validate_every_steps": 3,
    "seed": 0,
}
LORA = {"rank": 4, "alpha": 32, "dropout": 0.05}
FROZEN = {"vision": True, "merger": True}
EXECUTION = {
    "micro_batch_size": 4,
    "gradient_checkpointing": False,
    "save_every_steps": 100,
    "dataloader_num_workers": 0,
}

# The beginning of programs that get the arguments of a training as JSON, on their command line.
WITH_ARGUMENTS = """
import json, sys
from pathlib import Path
arguments = json.loads(sys.argv.pop())
for key, value in arguments.items():
    if key.endswith("_manifests"):
        arguments[key] = [Path(item) for item in value]
    elif key.endswith(("manifest", "file", "root")):
        arguments[key] = Path(value)
"""

# Trains with these arguments. After each step it prints the step and waits for a line; signals end it as a program.
TRAIN_STEP_BY_STEP = f"""{WITH_ARGUMENTS}
from usertune.runtime import step_main
from usertune.training.callbacks import SayProgress
from tests.support.calls import train
original = SayProgress.on_step_end
def on_step_end(self, args, state, control, **rest):
    original(self, args, state, control, **rest)
    print(state.global_step, flush=True)
    sys.stdin.readline()
SayProgress.on_step_end = on_step_end
step_main.run(step_main.argument_parser("train"), lambda _: train(**arguments))
"""


@dataclass(frozen=True)
class Prepared:
    """A small demo dataset and everything that the steps before training leave behind."""

    root: Path
    folder: Path

    @property
    def base_manifest(self) -> Path:
        return self.folder / "base_model.json"

    def manifest(self, user: str) -> Path:
        return self.folder / f"user_{user}.manifest.json"

    def samples(self, *users: str) -> list[Sample]:
        return [sample for user in users for sample in read_user(self.manifest(user))[1]]

    def train_recipe(self, mode: str = "lora", **training: Any) -> dict[str, Any]:
        extra = {"lora": LORA} if mode == "lora" else {"freeze": FROZEN}
        settings = {**TRAINING, **extra, **training}
        return {
            "step": "train",
            "mode": mode,
            "training": settings,
            "pixels": NO_LIMITS.model_dump(),
            "dtype": "float32",
        }

    def train_arguments(self, out: Path, recipe: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the arguments of `tests.support.calls.train` that lead to ``out/manifest.json``."""
        return {
            "recipe": recipe or self.train_recipe(epochs=1),
            "execution": EXECUTION,
            "experiment": "lora",
            "base_manifest": self.base_manifest,
            "train_manifests": [self.manifest("11")],
            "validation_manifests": [self.manifest("74")],
            "dataset_root": self.root,
            "manifest_file": out / "manifest.json",
            "log_file": out / "log.csv",
            "gpus": 0,
        }

    def predict_arguments(self, out: Path, users: Sequence[str] = ("1",), batch_size: int = 2) -> dict[str, Any]:
        """Return the arguments of `tests.support.calls.predict` that lead to ``out/predictions.json``."""
        return {
            "recipe": {"step": "predict", "max_new_tokens": 12, "pixels": NO_LIMITS.model_dump(), "dtype": "float32"},
            "experiment": "vanilla",
            "base_manifest": self.base_manifest,
            "train_manifest": None,
            "user_manifests": [self.manifest(user) for user in users],
            "dataset_root": self.root,
            "store_folder": out / "store",
            "predictions_file": out / "predictions.json",
            "batch_size": batch_size,
            "gpus": 0,
        }


@pytest.fixture(autouse=True)
def _restored_process() -> Iterator[None]:
    """A command run in the process of the tests changes its logging and its signals."""
    logger = logging.getLogger("usertune")
    before = (logger.handlers, logger.level, logger.propagate, logging.raiseExceptions)
    handlers = {number: signal.getsignal(number) for number in obeyed_signals()}
    yield
    logger.handlers, logger.level, logger.propagate, logging.raiseExceptions = before
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Users 1, 2 (5 samples each, test), 11, 12 (6, train) and 74 (3, validation), prepared."""
    folder = tmp_path_factory.mktemp("prepared")
    study = Prepared(folder / "dataset", folder / "data")
    make_dataset(study.root, [int(user) for user in USERS], 0, Counts(train=6, validation=3, test=5))
    study.folder.mkdir()
    describe_base_model(BaseModelRecipe(step="base_model", path=str(BASE), pixels=NO_LIMITS), study.base_manifest)
    for user in USERS:
        calls.prepare_one(study.root, user, study.folder / f"user_{user}.jsonl", study.manifest(user))
    return study


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study with all results up to the report; see `complete`."""
    folder = tmp_path_factory.mktemp("complete")
    with chdir(folder):
        SyntheticStudy(Path(), **COMPLETE).write().report()
    return folder


@pytest.fixture
def complete(whole_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SyntheticStudy:
    """A copy of `whole_study` in the working directory, with the times of its files; all paths are relative."""
    shutil.copytree(whole_study, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return SyntheticStudy(Path(), **COMPLETE)


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts a program text with a JSON argument in a separate process."""

    def start(program: str, argument: Any = None, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, json.dumps(argument, default=str)]
        return subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": f"{SOURCE}:{SOURCE.parent}", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
