"""The section `base_model`: the model that every experiment starts from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from usertune.study.schema.base import ConfigModel, PlainPath


class BaseModelSettings(ConfigModel):
    """The model that every experiment starts from."""

    path: PlainPath
    """A folder with a model of a known family and its processor, or a name on the Hugging Face Hub (docs/models.md)."""
    revision: str | None = None
    """Commit, tag or branch on the hub; null for a local folder."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Data type of weights that are not trained, and of all weights in prediction."""
    min_pixels: Annotated[int, Field(gt=0)] | None = None
    """Smaller images are enlarged to this many pixels; null: the setting of the processor."""
    max_pixels: Annotated[int, Field(gt=0)] | None = None
    """Larger images are shrunk to this many pixels (32 x 32 pixels are one visual token)."""
    thinking: bool | None = None
    """Whether a model that can think before it answers does so; null for a model that does not think (Instruct)."""

    @model_validator(mode="after")
    def _check(self) -> BaseModelSettings:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) is above max_pixels ({self.max_pixels})")
        return self
