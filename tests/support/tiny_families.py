"""Tiny random models of every family, with the real tokenizer of Qwen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

from tests.support.calls import NO_LIMITS
from tests.support.chat_templates import INSTRUCT, QWEN3_5
from tests.support.real_tokenizer import FILES, real_tokenizer
from usertune.models.base_model import describe_base_model
from usertune.models.conversation import ConversationTokenizer
from usertune.models.families.catalogue import family_of
from usertune.models.loading import load_processor
from usertune.models.recipe import BaseModelRecipe

PATCH, MERGE = 16, 2
TOKEN = (PATCH * MERGE) ** 2
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
    "num_position_embeddings": 64,
}
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_interleaved": True}


def _qwen3_vl() -> tuple[str, dict[str, Any], dict[str, Any], str]:
    text = {**TEXT, "num_hidden_layers": 2, "rope_parameters": {**ROPE, "mrope_section": [6, 5, 5]}}
    return "Qwen3VL", text, {**VISION, "deepstack_visual_indexes": [0]}, INSTRUCT


def _qwen3_5() -> tuple[str, dict[str, Any], dict[str, Any], str]:
    text = {
        **TEXT,
        # Three layers with linear attention, and one with full attention.
        "num_hidden_layers": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": {**ROPE, "partial_rotary_factor": 0.25, "mrope_section": [2, 1, 1]},
    }
    return "Qwen3_5", text, VISION, QWEN3_5


# For each `model_type`: the beginning of its classes' names in transformers, the configuration of its language model
# and of its vision tower, and its chat template.
TINY: dict[str, Callable[[], tuple[str, dict[str, Any], dict[str, Any], str]]] = {
    "qwen3_vl": _qwen3_vl,
    "qwen3_5": _qwen3_5,
}
# The setting ``thinking`` of models whose template asks for it.
THINKING = {"qwen3_5": False}


def write_tiny(model_type: str, folder: Path, seed: int = 0, limits: tuple[int, int] = (4 * TOKEN, 64 * TOKEN)) -> Path:
    """Write a random model with its processor into a new folder, and return the folder.

    Args:
        model_type: a key of `TINY`.
        folder: the folder.
        seed: seed of the weights.
        limits: fewest and most pixels of an image.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(real_tokenizer()))
    images: dict[str, Any] = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    size = dict(zip(("shortest_edge", "longest_edge"), limits, strict=True))
    classes, text, vision, template = TINY[model_type]()
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **images),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**images),
        chat_template=template,
    )
    processor.save_pretrained(str(folder))
    # The real files, rather than what transformers writes.
    for name in FILES:
        shutil.copy(real_tokenizer() / name, folder / name)
    ids = {name: getattr(processor, name) for name in ("image_token_id", "video_token_id")}
    ids |= {name: getattr(processor, name) for name in ("vision_start_token_id", "vision_end_token_id")}
    config = getattr(transformers, f"{classes}Config")(
        text_config={
            **text,
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config=vision,
        tie_word_embeddings=True,
        **ids,
    )
    torch.manual_seed(seed)
    model = getattr(transformers, f"{classes}ForConditionalGeneration")(config).float()
    with torch.no_grad():
        for value in model.parameters():
            # Larger than at initialisation, so that images and words change the answers.
            if value.dim() > 1:
                value.normal_(0, value[0].numel() ** -0.5)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(str(folder))
    return folder


def conversations_of(base: Path) -> ConversationTokenizer:
    """Return what turns conversations into tokens of a tiny model; its folder has the name of its type."""
    return ConversationTokenizer(load_processor(base, NO_LIMITS), family_of(base), THINKING.get(base.name))


def describe(base: Path, file: Path) -> dict[str, Any]:
    """Write the manifest of a tiny model, and return it; its folder has the name of its type."""
    recipe = BaseModelRecipe(step="base_model", path=str(base), pixels=NO_LIMITS, thinking=THINKING.get(base.name))
    return describe_base_model(recipe, file)
