"""The sizes of a model, from its config.json and the headers of its weights. Needs no torch."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.files import read_json
from usertune.models.families.catalogue import family_of
from usertune.models.family import Family, with_pixels
from usertune.models.model_folder import ModelFolder
from usertune.models.recipe import FreezeSettings, LoraSettings, Pixels
from usertune.models.tensor_files import Shapes, is_computed, shapes_in


@dataclass(frozen=True)
class TextShape:
    """Sizes of the language model; ``head_dim`` is the width of one attention head."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int


@dataclass(frozen=True)
class VisionShape:
    """Sizes of the vision tower; ``patch_values`` numbers describe a patch, ``merge`` patches become one token."""

    hidden: int
    depth: int
    heads: int
    intermediate: int
    patch_values: int
    merge: int
    deepstack: int


@dataclass(frozen=True)
class ImageLimits:
    """Fewest and most pixels of an image, and the side of a visual token in pixels."""

    fewest: int
    most: int
    side: int


@dataclass(frozen=True)
class ModelShape:
    """What estimates need to know of a model.

    Attributes:
        text: sizes of the language model.
        vision: sizes of the vision tower.
        parameters: part -> number of weights; the parts are ``language`` (layers and norm), ``embedding``, ``head`` (0
            if it is tied to the embedding), ``vision`` (the tower without its mergers) and ``merger``.
        matrices: weights of the language model's linear layers, without the head.
        adapted: (inputs, outputs) of each linear layer that gets an adapter.
        family: the model's family.
        image: pixel limits, with those of the study.
    """

    text: TextShape
    vision: VisionShape
    parameters: Mapping[str, int]
    matrices: int
    adapted: tuple[tuple[int, int], ...]
    family: Family
    image: ImageLimits

    @property
    def total(self) -> int:
        """Number of all weights; tied ones count once."""
        return sum(self.parameters.values())

    def trained(self, settings: LoraSettings | FreezeSettings) -> int:
        """Return how many weights are trained, as `usertune.models.loading.prepare_for_training` chooses them.

        An adapter of rank r on a layer with ``inputs`` and ``outputs`` has r * (inputs + outputs) weights (Hu et al.
        2021, "LoRA", section 4.1).
        """
        if isinstance(settings, LoraSettings):
            return settings.rank * sum(inputs + outputs for inputs, outputs in self.adapted)
        frozen = [part for part, is_frozen in settings.model_dump().items() if is_frozen]
        return sum(count for part, count in self.parameters.items() if part not in frozen)

    def image_tokens(self, width: int, height: int) -> int:
        """Return the number of visual tokens of an image of this size in pixels."""
        limits = {"min": self.image.fewest, "max": self.image.most, "token": self.image.side**2}
        return self.family.image_tokens(width, height, limits)


def read_model_shape(folder: Path, pixels: Pixels) -> ModelShape:
    """Read the sizes of the model in a folder.

    Args:
        folder: the base model's folder, which has passed `usertune.models.base_model.check_base_model`.
        pixels: the study's pixel limits; None keeps the processor's.

    Raises:
        UserError: a file is missing or damaged, or a size is missing in config.json.
    """
    config = read_json(folder / "config.json")
    limits, family = image_limits(folder, pixels), family_of(folder)
    named = {name.removeprefix("model."): shape for name, shape in shapes_in(folder).items() if not is_computed(name)}
    shapes = {name: shape for name, shape in named.items() if not re.fullmatch(family.unused_tensors, name)}
    try:
        text, vision = _text(config["text_config"]), _vision(config["vision_config"])
    except (KeyError, TypeError) as missing:
        raise UserError(f"{folder / 'config.json'}: the key {missing} is missing") from None
    adapted = sorted(name for name in shapes if _is_adapted(name, family))
    layers = [name for name in shapes if _part(name, family) == "language" and len(shapes[name]) > 1]
    return ModelShape(
        text=text,
        vision=vision,
        parameters=_counted(shapes, family, bool(config.get("tie_word_embeddings"))),
        matrices=sum(math.prod(shapes[name]) for name in layers),
        adapted=tuple((shapes[name][1], shapes[name][0]) for name in adapted),
        family=family,
        image=ImageLimits(limits["min"], limits["max"], math.isqrt(limits["token"])),
    )


def image_limits(folder: Path, pixels: Pixels) -> dict[str, int]:
    """Return the limits of a model's image processor, see `Family.image_limits`, with those of the study.

    Raises:
        UserError: a limit is missing in the processor's configuration.
    """
    limits = ModelFolder(folder).image_size()
    if limits is None:
        raise UserError(f"{folder}: the configuration of the image processor is missing or incomplete")
    return with_pixels(limits, pixels)


def _text(config: Mapping[str, Any]) -> TextShape:
    heads = config["num_attention_heads"]
    return TextShape(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config["num_key_value_heads"],
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
    )


def _vision(config: Mapping[str, Any]) -> VisionShape:
    patch = config.get("temporal_patch_size", 2) * config["patch_size"] ** 2
    return VisionShape(
        hidden=config["hidden_size"],
        depth=config["depth"],
        heads=config["num_heads"],
        intermediate=config["intermediate_size"],
        patch_values=config.get("in_channels", 3) * patch,
        merge=config.get("spatial_merge_size", 2) ** 2,
        deepstack=len(config.get("deepstack_visual_indexes", ())),
    )


def _is_adapted(name: str, family: Family) -> bool:
    module, _, kind = f"model.{name}".rpartition(".")
    return kind == "weight" and re.fullmatch(family.adapted_modules, module) is not None


def _part(name: str, family: Family) -> str:
    others = {family.embedding: "embedding", family.head: "head"}
    return family.vision_part(name) or others.get(name.removesuffix(".weight"), "language")


def _counted(shapes: Shapes, family: Family, tied: bool) -> dict[str, int]:
    """Return part -> number of weights; a tied pair may be in the file under either name or both."""
    counts: Counter[str] = Counter(dict.fromkeys(("language", "embedding", "head", "vision", "merger"), 0))
    for name, shape in shapes.items():
        counts[_part(name, family)] += math.prod(shape)
    if tied:
        counts["embedding"] = max(counts["embedding"], counts["head"])
        counts["head"] = 0
    return dict(counts)
