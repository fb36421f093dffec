"""Shapes of models, and the screenshots and conversations, that programs of this folder compare speeds on.

Not a benchmark. A tiny model says something about Qwen3-VL-2B only where its parts cost the same relative to one
another: `flops` counts them, and a test holds the shape "proportional" to the ratios of the 2B.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import common
from memory_estimates import REAL
from PIL import Image, ImageDraw

from usertune.data.samples import Sample

SCREENSHOT = (1080, 2340)
MOST_PIXELS = 1020 * 32 * 32
# Of such a screenshot, with so many pixels at most.
VISUAL_TOKENS = 987
# For programs that only show that they run.
TINY_SCREENSHOT = (128, 256)
TRAINED_TOKENS = 40
# Of random weights, about one over the root of the width: with much smaller ones, all images have the same answer.
_SPREAD = 0.09
# Factor of the rows of the embedding that no answer has.
SMALL = 0.01
# As in the 2B: heads of 128 in the language model, of 64 in the vision tower.
_PROPORTIONAL: dict[str, Any] = {
    "text_config": {
        "hidden_size": 256, "num_hidden_layers": 8, "intermediate_size": 768, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 128, "vocab_size": 8448, "max_position_embeddings": 32768,
        "initializer_range": _SPREAD,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True,
        },
    },
    "vision_config": {
        "depth": 1, "hidden_size": 256, "intermediate_size": 1024, "num_heads": 4, "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [0], "initializer_range": _SPREAD,
    },
}  # fmt: skip
_REAL_TOKENS = {
    "image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Sizes of a model.

    Attributes:
        about: what it is, as the page says it.
        differences: keys of config.json, and of its sections, that differ from the demo's base model.
        real_tokenizer: whether it has Qwen3's own tokenizer, or the demo's, with unused rows of the embedding.
    """

    about: str
    differences: Mapping[str, Any]
    real_tokenizer: bool = False


def _with_text(differences: Mapping[str, Any], **text: Any) -> dict[str, Any]:
    return {**differences, "text_config": {**differences["text_config"], **text}}


SHAPES: Mapping[str, Shape] = MappingProxyType({
    "proportional": Shape("2B-proportional: a tiny model with the 2B's ratios of FLOPs", _PROPORTIONAL),
    "vocabulary": Shape(
        "the same tiny model with the complete vocabulary of 151,936, an extreme",
        _with_text(_PROPORTIONAL, vocab_size=151936),
    ),
    "true-2b": Shape("the sizes of Qwen3-VL-2B", {**REAL["2B"], **_REAL_TOKENS}, real_tokenizer=True),
    "tiny": Shape(
        "a model that shows that a program runs",
        {
            "text_config": {"max_position_embeddings": 32768, "initializer_range": _SPREAD},
            "vision_config": {"initializer_range": _SPREAD},
        },
    ),
})  # fmt: skip


def flops(differences: Mapping[str, Any], visual_tokens: int, text_tokens: int = 100) -> dict[str, float]:
    """Return the floating-point operations of a forward pass of one sample, by part of the model.

    Products of matrices count, two operations for each multiplication; attention counts all pairs of positions.

    Args:
        differences: as of `Shape`; the rest is the demo's.
        visual_tokens: of the one image; a token is four patches.
        text_tokens: the other tokens of the sample.

    Returns:
        ``vision``, ``body`` (the language model without its head) and ``head`` (logits of every position).
    """
    config = config_of(differences)
    text, vision = config["text_config"], config["vision_config"]
    tokens, patches = visual_tokens + text_tokens, 4 * visual_tokens
    hidden, wide = text["hidden_size"], text["num_attention_heads"] * text["head_dim"]
    narrow = text["num_key_value_heads"] * text["head_dim"]
    weights = 2 * hidden * wide + 2 * hidden * narrow + 3 * hidden * text["intermediate_size"]
    body = text["num_hidden_layers"] * (2 * weights + 4 * tokens * wide) * tokens
    width = vision["hidden_size"]
    block = 4 * width**2 + 2 * width * vision["intermediate_size"]
    blocks = vision["depth"] * (2 * block + 4 * patches * width) * patches
    merger = 2 * (4 * width) * (4 * width + vision["out_hidden_size"])
    mergers = (1 + len(vision["deepstack_visual_indexes"])) * merger * visual_tokens
    embedding = 2 * 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2 * width * patches
    return {
        "vision": float(blocks + mergers + embedding),
        "body": float(body),
        "head": float(2 * hidden * text["vocab_size"] * tokens),
    }


def config_of(differences: Mapping[str, Any]) -> dict[str, Any]:
    """Return the complete config.json of a shape."""
    config: dict[str, Any] = json.loads((common.BASE / "config.json").read_text())
    for key, value in differences.items():
        config[key] = {**config[key], **value} if isinstance(value, Mapping) else value
    config["vision_config"]["out_hidden_size"] = config["text_config"]["hidden_size"]
    return config


def make_base(folder: Path, shape: Shape, dtype: str = "float32") -> None:
    """Write a base model of a shape, with random weights of seed 0.

    Its greedy answers are plain text that never ends: rows of the embedding are small for control tokens, and for those
    that the tokenizer does not have. Not zero: a zero at the first position stays zero in all layers, and each norm
    multiplies its gradient by a thousand.

    Raises:
        OSError: the real tokenizer is needed, and npm is not there.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen3VLConfig

    shutil.copytree(common.BASE, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    if shape.real_tokenizer:
        # Imported here because it needs pytest, which other shapes do not.
        sys.path.append(str(common.REPOSITORY))
        from tests.support.real_tokenizer import fetch

        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(fetch() / file, folder / file)
    limits = json.loads((folder / "processor_config.json").read_text())
    limits["image_processor"]["size"]["longest_edge"] = MOST_PIXELS
    (folder / "processor_config.json").write_text(json.dumps(limits))
    torch.manual_seed(0)
    config = Qwen3VLConfig(**config_of(shape.differences))
    model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        rows = table.weight.detach()
        rows[len(tokenizer) :] *= SMALL
        rows[list(tokenizer.added_tokens_decoder)] *= SMALL
    model.save_pretrained(folder)


def screenshots(root: Path, count: int, size: tuple[int, int] = SCREENSHOT, seed: int = 0) -> list[Sample]:
    """Draw screens of coloured boxes and lines of text, and return a sample of each; answers have equal lengths.

    The prompts' lengths differ, so that batches are padded, as with real instructions.
    """
    root.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    samples: list[Sample] = []
    for number in range(count):
        file = root / f"{number}.png"
        _screen(chance, size).save(file)
        x, y = chance.randrange(100, 1000), chance.randrange(100, 1000)
        words = " ".join(chance.choices(("tap", "the", "box", "that", "says", "more"), k=chance.randrange(8, 25)))
        samples.append(common.sample(file, f"{words}: where?", _answer(x, y)))
    return samples


def _answer(x: int, y: int) -> str:
    # As in the reference: the element's content, then the point.
    return f"```referring\nthe button below a title\n```\n```grounding\n[{x}, {y}]\n```"


def _screen(chance: random.Random, size: tuple[int, int]) -> Image.Image:
    width, height = size
    screen = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(screen)
    for _ in range(40):
        left, top = chance.randrange(width), chance.randrange(height)
        colour = tuple(chance.randrange(256) for _ in range(3))
        right, bottom = left + width // 20 + chance.randrange(width // 3), top + height // 40
        draw.rectangle((left, top, right, bottom), fill=colour)
        draw.text((left, top), "".join(chance.choices("abcdefgh ", k=20)), fill="black")
    return screen
