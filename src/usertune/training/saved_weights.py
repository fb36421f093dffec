"""The weights that a training leaves behind: the last or the best, of one or of several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from usertune.core.files import folder_replacement
from usertune.models.loading import load_model
from usertune.training.best import KeepBest, best_of, validations
from usertune.training.distributed.collectives import launched_rank, rank, unsharded_state, wait_for_all
from usertune.training.inputs import FineTuning
from usertune.training.moved import WeightSample, adapter_change, warn_if_hardly
from usertune.training.trainer import SparseLossTrainer


def sample_of_trained(run: FineTuning, model: nn.Module) -> WeightSample | None:
    """Return a sample of the weights before training, for rank 0; None for adapters, which begin at zero."""
    if run.recipe.mode == "lora" or launched_rank(run.processes):
        return None
    trained = ((name, value) for name, value in model.named_parameters() if value.requires_grad)
    return WeightSample(trained, getattr(torch, run.recipe.dtype))


def save_weights(
    trainer: SparseLossTrainer, processor: Any, run: FineTuning, before: WeightSample | None, folder: Path
) -> float:
    """Save the weights and the processor; if ``folder`` exists, it is complete.

    With several processes, each of them calls this, and rank 0 writes.

    Args:
        trainer: the trainer, after a step.
        processor: the base model's processor.
        run: inputs of the run.
        before: a sample of the weights before training, from `sample_of_trained`.
        folder: output: the adapter or the full model (safetensors), with the processor.

    Returns:
        In rank 0, how far training moved the weights (see `usertune.training.moved`); 0 in the others.
    """
    trained: Any = _unsharded(trainer, run) if trainer.is_fsdp_enabled else trainer.model
    moved = 0.0
    if rank() == 0:
        moved = before.change(trained.named_parameters()) if before else adapter_change(trained)
        with folder_replacement(folder) as temporary:
            trained.save_pretrained(str(temporary), **_as_saved(trained, run))
            processor.save_pretrained(str(temporary))
    wait_for_all()
    return moved


def _as_saved(model: nn.Module, run: FineTuning) -> dict[str, Any]:
    """Return arguments of ``save_pretrained``: the weights in the dtype of the recipe, if the model has another one."""
    if run.recipe.mode == "lora" or run.recipe.dtype == "float32":
        return {}
    saved: dict[int, torch.Tensor] = {}
    for value in model.state_dict().values():
        # Tied weights stay one tensor.
        saved.setdefault(value.data_ptr(), value.to("cpu", getattr(torch, run.recipe.dtype)))
    return {"state_dict": {name: saved[value.data_ptr()] for name, value in model.state_dict().items()}}


def _unsharded(trainer: SparseLossTrainer, run: FineTuning) -> nn.Module | None:
    """Return an unsharded model with the trained weights in rank 0; None in the others."""
    state = unsharded_state(trainer.model)
    if rank() != 0:
        return None
    model = load_model(run.base_folder, "float32")
    model.load_state_dict(state)
    model.config = trainer.model.config
    return model


def keep_weights(
    trainer: SparseLossTrainer,
    best: KeepBest,
    save: Callable[[Path], float],
    weights_folder: Path,
    run: FineTuning,
) -> dict[str, Any]:
    """Write the last or the best weights, as the study asks.

    Args:
        trainer: the trainer, after its last step.
        best: holds the best weights.
        save: writes the last weights to a folder, and returns how far training moved them.
        weights_folder: output.
        run: inputs of the run.

    Returns:
        What the manifest says of these weights.
    """
    history = trainer.state.log_history
    found = best_of(history) if run.training.keep == "best" else None
    moved = best.take(found[0], weights_folder) if found else save(weights_folder)
    if rank() == 0:
        warn_if_hardly(moved)
    losses = dict(validations(history))
    step = found[0] if found else trainer.state.global_step
    patience = run.training.early_stopping
    ended = f"no lower validation loss in {patience} validation{'s' * (patience != 1)}"
    return {
        "weights_moved": moved,
        "kept_step": step,
        "kept_validation_loss": losses.get(step),
        "ended": ended if best.stopped_early else "after all steps",
    }
