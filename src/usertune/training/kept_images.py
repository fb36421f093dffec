"""Decides what a training keeps of its images between epochs, see `usertune.models.image_memory`."""

from __future__ import annotations

import logging

from torch import nn

from usertune.models.family import Family
from usertune.models.image_memory import ImageMemory, auto_bytes
from usertune.models.recipe import FreezeSettings
from usertune.training.inputs import FineTuning
from usertune.training.schedule import optimizer_steps

logger = logging.getLogger(__name__)


def image_memory(run: FineTuning, model: nn.Module, family: Family) -> ImageMemory | None:
    """Return the memory for a training's images; None if it sees each image once, or the study wants none.

    Features are kept by a single process with a frozen vision tower, patches otherwise. Trainings that share a loaded
    model share the memory.
    """
    asked, processes = run.execution.image_memory, run.processes
    if not asked or not _sees_images_again(run):
        return None
    if run.reused is not None and run.reused.images is not None:
        return run.reused.images
    most = auto_bytes() if asked == "auto" else asked * 2**30
    weights = run.recipe.weights
    is_frozen = not isinstance(weights, FreezeSettings) or (weights.vision and weights.merger)
    memory = ImageMemory(family, model, int(most / processes.nproc_per_node), is_frozen and processes.world_size == 1)
    logger.info(
        "image memory: %s of images are kept for later epochs, up to %.1f GiB (image_memory: %s)",
        memory.kind, memory.most_bytes / 2**30, asked,
    )  # fmt: skip
    if run.reused is not None:
        run.reused.images = memory
    return memory


def _sees_images_again(run: FineTuning) -> bool:
    training, samples = run.training, len(run.train_samples)
    steps = optimizer_steps(samples, training.batch_size, training.epochs)
    validates_again = bool(run.validation_samples) and steps > training.validate_every_steps
    return training.epochs > 1 or validates_again or run.reused is not None
