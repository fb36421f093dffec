"""The recipe of the base model, and the settings of a model that other recipes share."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from usertune.core.recipe import Recipe, Settings


class Pixels(Settings):
    """Fewest and most pixels of an image; None keeps the processor's own."""

    min: int | None = None
    max: int | None = None


class LoraSettings(Settings):
    """Settings of low-rank adapters."""

    rank: int
    alpha: float
    dropout: float


class FreezeSettings(Settings):
    """Parts of the vision tower that full fine-tuning does not train."""

    vision: bool
    merger: bool


class StartWeights(Settings):
    """Trained weights that another training starts from."""

    mode: Literal["lora", "full"]
    """lora: an adapter, which is added to the base model; full: a complete model, which replaces it."""
    folder: Path


class OtherWeightsRecipe(Recipe):
    """Which weights an experiment uses that it does not train."""

    mode: Literal["lora", "full"]
    """What the weights are: an adapter, or a complete model."""
    path: str | None = None
    """Folder of weights from elsewhere, as written in the study; their content is an input."""
    of: str | None = None
    """Name of the experiment whose training kept the weights of ``kept_step``."""
    kept_step: int | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.path is None) == (self.of is None) or (self.of is None) != (self.kept_step is None):
            raise ValueError("either path, or of and kept_step are needed")
        return self


class BaseModelRecipe(Recipe):
    """Which model every experiment starts from."""

    path: str
    """A folder, or a name on the hub."""
    revision: str | None = None
    """Commit, tag or branch on the hub; None for a local folder."""
    pixels: Pixels = Pixels()
    thinking: bool | None = None
    """Whether the model thinks before it answers; None for a model that cannot."""
