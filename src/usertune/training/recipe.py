"""The recipe of a training, its execution settings, and the task of its processes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from usertune.core.recipe import Recipe, Settings
from usertune.models.recipe import FreezeSettings, LoraSettings, Pixels
from usertune.training.schedule import WARMUP


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
    validate_every_steps: int
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


class Execution(Settings):
    """Settings of a training that change only the last digits (docs/reproducibility.md)."""

    micro_batch_size: int = 1
    """Samples in memory at once, in each process."""
    gradient_checkpointing: bool
    save_every_steps: int
    dataloader_num_workers: int


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
