"""The section `training`: how to train an experiment."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from usertune.study.schema.base import ConfigModel
from usertune.training.schedule import WARMUP


class Lora(ConfigModel):
    """Settings of low-rank adapters; the defaults come from ms-swift's scripts for Qwen3-VL."""

    rank: Annotated[int, Field(gt=0)] = 8
    """Rank of the adapter matrices."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """The adapter's output is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout rate of the adapter's inputs in training."""


class Freeze(ConfigModel):
    """Parts of the model that full fine-tuning does not train. LoRA never trains them."""

    vision: bool = True
    """The vision tower, without its mergers."""
    merger: bool = False
    """The mergers, which turn the vision tower's outputs into visual tokens (`merger`, `deepstack_merger_list`)."""


class Training(ConfigModel):
    """How to train an experiment."""

    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the training samples."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of AdamW; null: 1e-4 for mode lora, 1e-5 for mode full."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """Learning rate schedule after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = WARMUP
    """Share of the optimizer steps in which the learning rate rises from 0; rounded up, but never all steps."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Warm-up as a number of steps, instead of `warmup`; must be smaller than the total number of steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""
    batch_size: Annotated[int, Field(gt=0)] = 8
    """Samples per optimizer step."""
    micro_batch_size: Literal["auto"] | Annotated[int, Field(gt=0)] = "auto"
    """Samples in memory at once on each GPU; gradients accumulate up to batch_size. auto: as many short samples as keep
    the device busy and fit into its memory; 1 with several GPUs. Changes only the last digits."""
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    """Recompute activations instead of storing them: less memory, about a third slower, same results. auto: only if
    they do not fit into the free memory; always with several GPUs."""
    validate_every_steps: Annotated[int, Field(gt=0)] = 100
    """Optimizer steps between validations; the last validation is after the last step."""
    keep: Literal["last", "best"] = "last"
    """Weights to use: those after the last step, or those with the lowest validation loss."""
    keep_checkpoints: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Optimizer steps after which the weights are kept too, for experiments with ``checkpoint``."""
    early_stopping: Annotated[int, Field(gt=0)] | None = None
    """Stop after this many validations in a row without a lower loss; null: train all steps."""
    save_every_steps: Annotated[int, Field(gt=0)] = 100
    """Optimizer steps between checkpoints; a killed job resumes from the last one."""
    dataloader_num_workers: Annotated[int, Field(ge=0)] = 2
    """Processes that load images during training. Changes no result."""
    image_memory: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """Memory (GiB) that keeps images between epochs: what a frozen vision tower computed of them, else their patches.
    auto: up to a quarter of the free memory; 0: none. Changes only the last digits."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Random seed for sample order, initial adapter weights and dropout."""
    freeze: Freeze = Freeze()
    """Parts that full fine-tuning does not train."""
    lora: Lora = Lora()
    """Adapter settings, only for mode lora."""

    @model_serializer(mode="wrap")
    def _one_warmup(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write only one of the two warm-up keys, so that the output is valid."""
        values: dict[str, Any] = write(self)
        values.pop("warmup_steps" if self.warmup_steps is None else "warmup", None)
        return values

    @model_validator(mode="after")
    def _check(self) -> Training:
        if self.micro_batch_size != "auto" and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        if len(set(self.keep_checkpoints)) < len(self.keep_checkpoints):
            raise ValueError(f"keep_checkpoints ({list(self.keep_checkpoints)}) names a step twice; keep it once")
        if self.warmup_steps is not None and "warmup" in self.model_fields_set:
            raise ValueError(
                f"warmup ({self.warmup:g}, a share of the steps) and warmup_steps ({self.warmup_steps}) set the same "
                "thing; keep one of them"
            )
        return self
