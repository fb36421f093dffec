"""What one fine-tuning run is given. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from usertune.data.samples import Sample
from usertune.models.recipe import StartWeights
from usertune.training.processes import ALONE, Processes
from usertune.training.recipe import Execution, TrainingSettings, TrainRecipe

if TYPE_CHECKING:
    from usertune.models.reused import ReusedModel


@dataclass(frozen=True)
class FineTuning:
    """Inputs of one run.

    Attributes:
        recipe: settings.
        execution: settings that change only the last digits.
        base_folder: the base model's folder.
        dataset_root: folder of the images.
        train_samples: samples to train on.
        validation_samples: samples of the validation loss.
        processes: the processes that train together.
        start: the weights to start from; None: the base model.
        reused: a loaded model of this starting point that several trainings of adapters share; None: load one.
    """

    recipe: TrainRecipe
    execution: Execution
    base_folder: Path
    dataset_root: Path
    train_samples: Sequence[Sample]
    validation_samples: Sequence[Sample]
    processes: Processes = ALONE
    start: StartWeights | None = None
    reused: ReusedModel | None = None

    @property
    def training(self) -> TrainingSettings:
        """Settings of the optimizer."""
        return self.recipe.training
