"""What the families of Qwen have in common: the marks of turns and images, the image processor, the vision tower."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from usertune.models.family import Family, Markers
from usertune.models.recipe import Pixels

# The limits of Qwen2VLImageProcessor in transformers, if its configuration has none.
DEFAULT_SIZE = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
DEFAULT_PATCH, DEFAULT_MERGE = 14, 2


class QwenFamily(Family):
    """Families of Qwen from Qwen3-VL on: a vision tower ``model.visual``, and coordinates in 0-1000."""

    markers = Markers("<|im_start|>", "<|im_end|>", "assistant\n", "<|image_pad|>")
    answer_frame = "relative_1000"
    single_parts: Sequence[str] = (
        "language_model.embed_tokens",
        "language_model.norm",
        "visual.patch_embed",
        "visual.pos_embed",
        "visual.merger",
        "lm_head",
    )
    head, embedding = "lm_head", "language_model.embed_tokens"
    unused_tensors = ""
    vision = "visual"
    patch_embedding = "model.visual.patch_embed"
    mergers = frozenset({"merger"})
    attention, positionwise = "self_attn", ("self_attn.o_proj", "mlp")
    rotation = "apply_rotary_pos_emb"
    pixels, grids = "pixel_values", "image_grid_thw"

    def image_limits(self, processor: Mapping[str, Any]) -> dict[str, int] | None:
        """Return the limits of an image processor; see `Family.image_limits`."""
        size = processor.get("size")
        size = size if isinstance(size, dict) else DEFAULT_SIZE
        patch, merge = processor.get("patch_size", DEFAULT_PATCH), processor.get("merge_size", DEFAULT_MERGE)
        limits = {
            "min": processor.get("min_pixels") or size.get("shortest_edge"),
            "max": processor.get("max_pixels") or size.get("longest_edge"),
            "token": (patch * merge) ** 2 if isinstance(patch, int) and isinstance(merge, int) else None,
        }
        return limits if all(isinstance(value, int) for value in limits.values()) else None  # type: ignore[return-value]

    def image_size(self, width: int, height: int, limits: Mapping[str, int]) -> tuple[int, int]:
        """Return the size that an image is scaled to: ``smart_resize`` of Qwen2-VL in transformers.

        Both sides are rounded to full visual tokens; then, if the area is outside the limits, they are scaled with
        the same aspect ratio, rounding down below the maximum and up above the minimum.
        """
        side = math.isqrt(limits["token"])
        rows, columns = round(height / side), round(width / side)
        if rows * columns * limits["token"] > limits["max"]:
            scale = math.sqrt(height * width / limits["max"])
            rows, columns = (max(1, math.floor(length / scale / side)) for length in (height, width))
        elif rows * columns * limits["token"] < limits["min"]:
            scale = math.sqrt(limits["min"] / (height * width))
            rows, columns = (math.ceil(length * scale / side) for length in (height, width))
        return columns * side, rows * side

    def load_processor(self, folder: Path, pixels: Pixels) -> Any:
        """Return the processor of a model folder; see `Family.load_processor`."""
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        if processor.chat_template is None:
            # Older models have the template in the tokenizer alone.
            processor.chat_template = processor.tokenizer.chat_template
        size = dict(processor.image_processor.size)
        if pixels.min is not None:
            size["shortest_edge"] = pixels.min
        if pixels.max is not None:
            size["longest_edge"] = pixels.max
        processor.image_processor.size = size
        return processor

    def limits_of(self, processor: Any) -> dict[str, int]:
        """Return the limits of a loaded processor."""
        images = processor.image_processor
        return {
            "min": images.size["shortest_edge"],
            "max": images.size["longest_edge"],
            "token": (images.patch_size * images.merge_size) ** 2,
        }

    def image_inputs(self, processor: Any, input_ids: Any, images: Sequence[Any]) -> dict[str, Any]:
        """Return the model's inputs for the images of a batch; see `Family.image_inputs`.

        Shapes: ``mm_token_type_ids`` (samples, tokens), 1 at visual tokens; ``pixel_values`` (patches, patch values);
        ``image_grid_thw`` (images, 3), time, rows and columns of patches.
        """
        inputs = {"mm_token_type_ids": (input_ids == processor.image_token_id).int()}
        if images:
            pixels = processor.image_processor(images=images, return_tensors="pt")
            inputs |= {self.pixels: pixels[self.pixels], self.grids: pixels[self.grids]}
        return inputs

    def image_features(self, model: Any, pixels: Any, grids: Any) -> list[tuple[Any, ...]]:
        """Return what the vision tower computes of each image: its visual tokens, shape (tokens, hidden).

        With DeepStack, the tensors that are added after the first layers follow, of the same shape.
        """
        output = model.get_image_features(pixels, grids, return_dict=True)
        return list(zip(output.pooler_output, *(getattr(output, "deepstack_features", None) or ()), strict=True))

    def image_tensors_as_inputs(self, images: Sequence[tuple[Any, ...]], features: bool) -> dict[str, Any]:
        """Return the model's inputs for images; see `Family.image_tensors_as_inputs`."""
        if features:
            from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

            tokens, *deepstack = zip(*images, strict=True)
            output = BaseModelOutputWithDeepstackFeatures(pooler_output=tokens, deepstack_features=deepstack)
            return {"mm_encoder_outputs": {"image": output}}
        import torch

        return {self.pixels: torch.cat([patches for (patches,) in images])}
