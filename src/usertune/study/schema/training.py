"""The section `training`: how an experiment is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from usertune.study.schema.base import ConfigModel
from usertune.training.schedule import WARMUP


class Lora(ConfigModel):
    """Settings of low-rank adapters; the defaults are those of ms-swift's recipes for Qwen3-VL."""

    rank: Annotated[int, Field(gt=0)] = 8
    """Rank of the adapter matrices."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """The adapter's output is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the adapter's inputs that is dropped in training."""


class Freeze(ConfigModel):
    """Parts of the model that full fine-tuning leaves as they are. LoRA never touches them."""

    vision: bool = True
    """The vision tower, without its mergers."""
    merger: bool = False
    """The mergers, which turn the vision tower's outputs into visual tokens (`merger`, `deepstack_merger_list`)."""


class Training(ConfigModel):
    """How an experiment is trained."""

    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the training samples."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of AdamW; null: 1e-4 for experiments of mode lora, 1e-5 for mode full."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """How the learning rate goes on after warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = WARMUP
    """Share of the optimizer steps over which the learning rate rises from 0; rounded up, but never all of them."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """The same as a number of steps, in place of `warmup`; must be less than there are."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""
    batch_size: Annotated[int, Field(gt=0)] = 8
    """Samples for each optimizer step."""
    micro_batch_size: Annotated[int, Field(gt=0)] = 1
    """Samples in memory at once, on each GPU; gradients add up to batch_size, by tokens. Changes the last digits."""
    gradient_checkpointing: bool = True
    """Recompute activations instead of keeping them: less memory, about a third slower. Computes the same numbers."""
    validate_every_steps: Annotated[int, Field(gt=0)] = 100
    """Measure the validation loss after so many optimizer steps (and at the end)."""
    keep: Literal["last", "best"] = "last"
    """Which weights are used: those after the last step, or those of the lowest validation loss."""
    early_stopping: Annotated[int, Field(gt=0)] | None = None
    """End training after so many validations in a row without a lower loss; null: after all steps."""
    save_every_steps: Annotated[int, Field(gt=0)] = 100
    """Keep a working checkpoint after so many optimizer steps; a killed job resumes there."""
    dataloader_num_workers: Annotated[int, Field(ge=0)] = 2
    """Processes that open images while the model computes. Changes no result."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of sample order, adapter initialisation and dropout."""
    freeze: Freeze = Freeze()
    """What full fine-tuning leaves as it is."""
    lora: Lora = Lora()
    """Adapter settings; used by experiments of mode lora only."""

    @model_serializer(mode="wrap")
    def _one_warmup(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the warm-up once, so that what is written reads as the same settings."""
        values: dict[str, Any] = write(self)
        values.pop("warmup_steps" if self.warmup_steps is None else "warmup", None)
        return values

    @model_validator(mode="after")
    def _check(self) -> Training:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        if self.warmup_steps is not None and "warmup" in self.model_fields_set:
            raise ValueError(
                f"warmup ({self.warmup:g}, a share of the steps) and warmup_steps ({self.warmup_steps}) say the same "
                "thing; keep one of them"
            )
        return self
