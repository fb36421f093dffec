"""What the manifest of a training says of its making."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from usertune.models.loading import device_name, used_gpus
from usertune.models.patches import patch_embedding
from usertune.training.callbacks import step_of
from usertune.training.distributed.collectives import gathered
from usertune.training.inputs import FineTuning
from usertune.training.trainer import SparseLossTrainer


def computed_with(run: FineTuning, trainer: SparseLossTrainer) -> dict[str, Any]:
    """Return the settings that change only the last digits (see docs/reproducibility.md)."""
    return {
        "micro_batch_size": run.execution.micro_batch_size,
        "gradient_checkpointing": run.execution.gradient_checkpointing,
        "processes": run.processes.world_size,
        "parallel": run.processes.parallel,
        "patch_embedding": patch_embedding(trainer.model),
        "image_memory": trainer.images.kind if trainer.images is not None else None,
        "device": device_name(),
    }


def measurements(
    trainer: SparseLossTrainer, run: FineTuning, cost: Mapping[str, Any], resumed_from: Path | None
) -> dict[str, Any]:
    """Return seconds, steps, samples and tokens per second, bytes of peak memory and so on, over all processes.

    Args:
        trainer: the trainer, after its last step.
        run: inputs of the run.
        cost: sums over all attempts, from `usertune.training.effort.Effort.total`.
        resumed_from: the working checkpoint that this attempt continued, or None.
    """
    state = trainer.state
    validation = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
    return {
        # Over all attempts, including steps repeated after a kill; ``steps`` counts each step once.
        "attempts": cost["attempts"],
        "computed_with": cost["computed_with"],
        "wall_seconds": cost["wall_seconds"],
        "computed_steps": cost["steps"],
        "computed_samples": cost["samples"],
        "computed_tokens": cost["tokens"],
        "energy_joules": cost["energy_joules"],
        "samples_per_second": round(cost["samples"] / cost["wall_seconds"], 2),
        "tokens_per_second": round(cost["tokens"] / cost["wall_seconds"], 1),
        "images_kept": len(trainer.images) if trainer.images is not None else 0,
        "image_memory_bytes": trainer.images.bytes if trainer.images is not None else 0,
        "steps": state.global_step,
        "resumed_from_step": step_of(resumed_from) if resumed_from else 0,
        "peak_memory_bytes": max(gathered(_peak_memory_bytes())),
        "final_validation_loss": validation[-1] if validation else None,
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "micro_batch_size": trainer.args.per_device_train_batch_size,
        "device": device_name(),
        "processes": trainer.accelerator.num_processes,
        "parallel": run.processes.parallel,
        "gpus_used": sorted({gpu for gpus in gathered(used_gpus()) for gpu in gpus}),
    }


def _peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
