"""The recipe of a training, and how it is carried out."""

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
    """Share of the optimizer steps; not used where ``warmup_steps`` is set."""
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
    """What an experiment is trained with, as far as it changes more than the last digits."""

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
            raise ValueError("training.freeze: mode full needs to know what it leaves as it is")
        return self

    @property
    def weights(self) -> LoraSettings | FreezeSettings:
        """Which weights are trained: adapters, or all but what is frozen."""
        settings = self.training.lora if self.mode == "lora" else self.training.freeze
        assert settings is not None
        return settings


class Execution(Settings):
    """How a training is carried out: changes no more than the last digits (docs/reproducibility.md)."""

    micro_batch_size: int = 1
    """Samples in memory at once, in each process."""
    gradient_checkpointing: bool
    save_every_steps: int
    dataloader_num_workers: int


class TrainTask(Settings):
    """What every process of a training is told."""

    recipe: TrainRecipe
    execution: Execution
    base_folder: Path
    train: tuple[Path, ...]
    """Manifests of the users to train on."""
    validation: tuple[Path, ...]
    """Manifests of the users on whom the validation loss is measured."""
    dataset_root: Path
    work: Path
    """Working folder of the training."""
