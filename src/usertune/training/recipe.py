"""The recipe of a training, its execution settings, and the task of its processes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from usertune.core.hashing import NOT_IN_FINGERPRINT
from usertune.core.recipe import Recipe, Settings
from usertune.data.folds import FoldSettings
from usertune.models.recipe import FreezeSettings, LoraSettings, Pixels
from usertune.training.schedule import WARMUP
from usertune.training.tracking import Tracking


class TrainingSettings(Settings):
    """Settings of the optimizer, as in the section ``training`` of a study."""

    epochs: float
    learning_rate: float
    schedule: str
    warmup: float = WARMUP
    """Share of the optimizer steps; ignored if ``warmup_steps`` is set."""
    warmup_steps: int | None = None
    weight_decay: float
    max_grad_norm: float
    batch_size: int
    validate_every_steps: int = 100
    keep: Literal["last", "best"] = "last"
    early_stopping: int | None = None
    seed: int
    freeze: FreezeSettings | None = None
    """For mode full."""
    lora: LoraSettings | None = None
    """For mode lora."""


class SplitUsers(Settings):
    """The users of a training."""

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()


class TrainRecipe(Recipe):
    """The training settings of an experiment that change more than the last digits."""

    mode: Literal["lora", "full"]
    training: TrainingSettings
    pixels: Pixels = Pixels()
    dtype: Literal["bfloat16", "float32"]
    thinking: bool | None = None
    users: SplitUsers | None = None
    keep_checkpoints: tuple[int, ...] = ()
    """Optimizer steps after which the weights are kept too. Not part of the fingerprint."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode == "lora" and self.training.lora is None:
            raise ValueError("training.lora: mode lora needs the settings of its adapters")
        if self.mode == "full" and self.training.freeze is None:
            raise ValueError("training.freeze: mode full needs the modules to freeze")
        return self

    @property
    def weights(self) -> LoraSettings | FreezeSettings:
        """Settings of the trained weights: adapters, or all weights except the frozen ones."""
        settings = self.training.lora if self.mode == "lora" else self.training.freeze
        assert settings is not None
        return settings


class TrainFoldsRecipe(TrainRecipe):
    """The settings of trainings on folds of test users' own samples."""

    scope: Literal["personal", "pooled"]
    """personal: a training for each user and fold; pooled: one for each fold of all users together."""
    folds: FoldSettings
    samples: int | None = None
    """Most samples of a user in a training; None: all of the other folds."""
    start: Literal["lora", "full"] | None = None
    """Mode of the experiment whose weights the trainings start from; None: the base model."""

    @property
    def of_fold(self) -> TrainRecipe:
        """Settings of the training for one fold. How folds are cut shows in its samples alone."""
        own = {key: value for key, value in self.as_json().items() if key in TrainRecipe.model_fields}
        return TrainRecipe.model_validate({key: own[key] for key in own if key not in NOT_IN_FINGERPRINT})


class Execution(Settings):
    """Settings of a training that change only the last digits (docs/reproducibility.md)."""

    micro_batch_size: Literal["auto"] | int = 1
    """Samples in memory at once, in each process; auto: see `usertune.training.fitting`, like the next."""
    gradient_checkpointing: Literal["auto"] | bool
    save_every_steps: int
    dataloader_num_workers: int
    image_memory: Literal["auto"] | float = 0.0
    """GiB for `usertune.models.image_memory`, of all processes together; auto: see `most_image_bytes`."""
    tracking: Tracking | None = None
    """Where to report the losses; None: nowhere."""


class TrainTask(Settings):
    """The task of every process of a training."""

    recipe: TrainRecipe
    execution: Execution
    base_folder: Path
    train: tuple[Path, ...]
    """Manifests of the users to train on."""
    validation: tuple[Path, ...]
    """Manifests of the users for the validation loss."""
    dataset_root: Path
    work: Path
    """Working folder of the training."""
