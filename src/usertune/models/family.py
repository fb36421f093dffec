"""The interface of model families: everything that depends on the architecture of a base model.

Planning and CPU steps use families too, so neither this module nor a family's module imports torch or transformers at
its top level; methods that need them import them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usertune.models.recipe import Pixels


@dataclass(frozen=True)
class Markers:
    """The tokens with which chat templates of a family mark turns and images.

    Attributes:
        turn_start: begins a turn; the role follows.
        turn_end: ends a turn.
        answer_header: text between ``turn_start`` and an answer.
        image: the place of an image; repeated for each of its visual tokens.
    """

    turn_start: str
    turn_end: str
    answer_header: str
    image: str


@dataclass(frozen=True)
class Layers:
    """Numbered parts of a model.

    Attributes:
        name: name of their tensors before the number, without ``model.``.
        section, key: place in config.json of their count, or of a list with an entry for each.
    """

    name: str
    section: str
    key: str


@dataclass(frozen=True)
class RmsNorms:
    """RMS norms of the language model: inputs over the root of their mean square, times a weight.

    Attributes:
        module: name of their class.
        epsilon: name of its attribute that is added to the mean square.
        offset: what is added to the weight.
    """

    module: str
    epsilon: str
    offset: float = 0


class Family(ABC):
    """Models of one architecture. Names of tensors and modules are without the prefix ``model.``.

    A family is a class in a module of `usertune.models.families` and a line in the catalogue there, with the
    ``model_type`` of its config.json (docs/models.md).
    """

    title: str
    """Name for people, such as ``Qwen3-VL``."""
    hub_names: Sequence[str]
    """Models of the family on the Hugging Face hub."""
    model_class: str
    """Name of the models' class in transformers."""
    markers: Markers
    answer_frame: str
    """Coordinate frame in which the models are trained to answer, one of `usertune.data.frames.FRAMES`."""
    layers: Sequence[Layers]
    single_parts: Sequence[str]
    """Further parts, each with at least one tensor."""
    head: str
    embedding: str
    """Head and input embedding: one is enough if ``tie_word_embeddings`` is set."""
    unused_tensors: str
    """Regular expression for tensors that published files hold and the model does not load; "" for none."""
    vision: str
    """Name of the vision tower's module."""
    patch_embedding: str
    """Complete name of the module whose convolution ``proj`` embeds patches, see `usertune.models.patches`."""
    mergers: frozenset[str]
    """Modules of the vision tower that turn its outputs into visual tokens: ``training.freeze.merger``."""
    adapted_modules: str
    """Regular expression for the complete names (with ``model.``) of the layers that get adapters."""
    attention: str
    """Name, in a layer of the language model, of softmax attention that takes transformers' AttentionInterface."""
    positionwise: Sequence[str]
    """Names, in such a layer, of modules after its attention that compute each position on its own."""
    norms: RmsNorms
    gated_mlp: str
    """Class of the language model's MLPs: ``down_proj(act_fn(gate_proj(inputs)) * up_proj(inputs))``."""
    rotation: str
    """Name of the function, in the module of transformers, that rotates queries and keys by their positions."""
    sharded_modules: Sequence[str]
    """Classes of modules that FSDP shards, gathers and frees each on its own."""
    pixels: str
    grids: str
    """Names of two model inputs: the patches of all images, and each image's number of patches in time, rows and
    columns."""

    def layer_kind(self, layers: Layers, number: int, config: Mapping[str, Any]) -> str:
        """Return the kind of a numbered layer; layers of one kind have tensors of the same names.

        Args:
            layers: which numbered part.
            number: number of the layer, from 0.
            config: content of config.json.
        """
        return ""

    def vision_part(self, name: str) -> str | None:
        """Return the key of ``training.freeze`` for a weight of the vision tower; None for other weights."""
        parts = name.split(".")
        if self.vision not in parts:
            return None
        return "merger" if parts[parts.index(self.vision) + 1] in self.mergers else "vision"

    @abstractmethod
    def image_limits(self, processor: Mapping[str, Any]) -> dict[str, int] | None:
        """Return the limits of an image processor.

        Args:
            processor: its configuration (preprocessor_config.json).

        Returns:
            ``min`` and ``max`` (pixels of an image after resizing) and ``token`` (pixels of one visual token); None
            if one of them is not a number.
        """

    @abstractmethod
    def image_size(self, width: int, height: int, limits: Mapping[str, int]) -> tuple[int, int]:
        """Return width and height, in pixels, that an image processor scales an image to.

        Args:
            width, height: size of the image in pixels.
            limits: as from `image_limits`, with the study's own where it sets them (`with_pixels`).
        """

    def image_tokens(self, width: int, height: int, limits: Mapping[str, int]) -> int:
        """Return the number of visual tokens of an image; arguments as for `image_size`."""
        scaled = self.image_size(width, height, limits)
        return scaled[0] * scaled[1] // limits["token"]

    @abstractmethod
    def load_processor(self, folder: Path, pixels: Pixels) -> Any:
        """Return the processor of a model folder, with the study's pixel limits (None keeps the processor's own)."""

    @abstractmethod
    def limits_of(self, processor: Any) -> dict[str, int]:
        """Return the limits of a loaded processor, as `image_limits`."""

    @abstractmethod
    def image_inputs(self, processor: Any, input_ids: Any, images: Sequence[Any]) -> dict[str, Any]:
        """Return the model's inputs for the images of a batch.

        Args:
            processor: from `load_processor`.
            input_ids: token ids of the batch, shape (samples, tokens), with a placeholder for each visual token.
            images: the samples' images (PIL), in the order of their placeholders; may be empty.

        Returns:
            Name -> tensor, as ``forward`` and ``generate`` take them.
        """

    @abstractmethod
    def image_features(self, model: Any, pixels: Any, grids: Any) -> list[tuple[Any, ...]]:
        """Return what the vision tower computes, a tuple of tensors for each image.

        Args:
            model: the model, with or without adapters, on its device.
            pixels: input `pixels` of the images.
            grids: input `grids` of the images.
        """

    @abstractmethod
    def image_tensors_as_inputs(self, images: Sequence[tuple[Any, ...]], features: bool) -> dict[str, Any]:
        """Return the model's inputs for images, name -> value, without `grids`.

        Args:
            images: for each image, its tensors from `image_features`, or its patches alone.
            features: whether they are from `image_features`.
        """


def with_pixels(limits: Mapping[str, int], pixels: Pixels) -> dict[str, int]:
    """Return limits of an image processor with those that the study sets."""
    own = {"min": pixels.min, "max": pixels.max}
    return {**limits, **{key: value for key, value in own.items() if value is not None}}
