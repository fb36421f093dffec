"""What a training or a prediction computed of images, kept in memory for the next time that it sees them.

If the vision tower is frozen, its outputs are kept, so neither the file nor the tower is needed again; otherwise the
resized patches. Nothing is written to a disk.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from usertune.models.family import Family
from usertune.models.loading import plain_model
from usertune.runtime.memory import free_memory

logger = logging.getLogger(__name__)

# Time, rows and columns of an image's patches.
Grid = tuple[int, ...]
# Key of the images of a batch, no model input.
IMAGES = "images"
MODEL_INPUT = "mm_encoder_outputs"
# Of the free memory; the rest is for batches, checkpoints and, without a GPU, the models.
AUTO_SHARE = 1 / 4


@dataclass(frozen=True)
class BatchImages:
    """The images of a batch, by the SHA-256 of their files.

    Attributes:
        keys: all images, in the order of their placeholders.
        opened: the images whose pixels are in the batch, in this order.
    """

    keys: tuple[str, ...]
    opened: tuple[str, ...]


class ImageMemory:
    """Features or patches of images, kept until a number of bytes is reached; later images are computed every time.

    Args:
        family: family of the model.
        model: the model, with or without adapters.
        most_bytes: most bytes to keep.
        features: whether to keep what the vision tower computes, which must be the same every time: it is not trained,
            and this process calls it alone. Releases of transformers that cannot take features get patches.
    """

    def __init__(self, family: Family, model: nn.Module, most_bytes: int, features: bool) -> None:
        self.family = family
        self.most_bytes = most_bytes
        self.features = features and takes_features(model)
        self.grids: dict[str, Grid] = {}
        """The images that are kept, which need not be opened again."""
        self.bytes = 0
        self._kept: dict[str, tuple[torch.Tensor, ...]] = {}
        self._is_full = False

    @property
    def kind(self) -> str:
        """What is kept: "features" or "patches"."""
        return "features" if self.features else "patches"

    def complete(self, model: nn.Module, batch: Mapping[str, Any], keep: bool = True) -> dict[str, Any]:
        """Return a batch with the inputs for all its images, and without `IMAGES`.

        Args:
            model: the model, on its device.
            batch: from `Collator`, with the pixels of images that were not kept when it was made.
            keep: whether to keep its images.
        """
        inputs = dict(batch)
        images: BatchImages | None = inputs.pop(IMAGES, None)
        if images is None:
            return inputs
        computed = self._computed(model, inputs, images)
        if keep:
            for key, tensors in computed.items():
                self._keep(key, tensors, self._grid(inputs, images, key))
        device = batch["input_ids"].device
        found = [tuple(tensor.to(device) for tensor in computed.get(key) or self._kept[key]) for key in images.keys]
        return inputs | self.family.image_tensors_as_inputs(found, self.features)

    def _computed(
        self, model: nn.Module, inputs: dict[str, Any], images: BatchImages
    ) -> dict[str, tuple[torch.Tensor, ...]]:
        """Return the tensors of the opened images that are not kept; take their pixels out of ``inputs``."""
        pixels = inputs.pop(self.family.pixels, None)
        if pixels is None:
            return {}
        grids = torch.tensor([self._grid(inputs, images, key) for key in images.opened])
        patches = torch.split(pixels, grids.prod(-1).tolist())
        found = {}
        for number, key in enumerate(images.opened):
            # A batch may have been made ahead, before its images were kept.
            if key in self._kept:
                continue
            found[key] = (patches[number],)
            if self.features:
                # Each image alone, so that the last digits do not depend on the batch in which it was first seen.
                with torch.no_grad():
                    grid = grids[number : number + 1].to(pixels.device)
                    (found[key],) = self.family.image_features(model, patches[number], grid)
        return found

    def _grid(self, inputs: Mapping[str, Any], images: BatchImages, key: str) -> Grid:
        return tuple(inputs[self.family.grids][images.keys.index(key)].tolist())

    def _keep(self, key: str, tensors: tuple[torch.Tensor, ...], grid: Grid) -> None:
        size = sum(tensor.nbytes for tensor in tensors)
        if self._is_full or self.bytes + size > self.most_bytes:
            if not self._is_full:
                logger.info(
                    "image memory: %d images (%.1f GiB) are kept; the others are computed every time",
                    len(self._kept), self.bytes / 2**30,
                )  # fmt: skip
            self._is_full = True
            return
        # Copies, because these are parts of a batch, which would be kept with them.
        self._kept[key] = tuple(tensor.detach().to("cpu", copy=True) for tensor in tensors)
        self.grids[key] = grid
        self.bytes += size

    def __len__(self) -> int:
        return len(self._kept)


def auto_bytes() -> int:
    """Return the most bytes to keep if a study names none."""
    return int(AUTO_SHARE * free_memory())


def takes_features(model: nn.Module) -> bool:
    """Whether a model's ``forward`` and ``generate`` take the vision tower's outputs instead of pixels."""
    return MODEL_INPUT in inspect.signature(type(plain_model(model)).forward).parameters
