"""The demo's base model before training: a real Qwen3-VL with 0.9 M parameters, and its processor.

Hugging Face's default initialisation leaves a model this small at chance: the image patches outweigh the position
embedding, and the layers' outputs outweigh the text embeddings. `initialise` fixes both.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from usertune.demo.screens import ANSWER, COLOURS, GENERIC_WORDINGS, PROMPT, SHAPES
from usertune.demo.styles import APPS, KNOWN_WORDINGS, NEW_WORDINGS

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIAL_TOKENS = (
    END_OF_TEXT,
    TURN_START,
    TURN_END,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# The structure of Qwen3-VL-Instruct's template, without tools: images and videos only outside the system turn,
# <|im_end|> and a newline at the end of every turn.
CHAT_TEMPLATE = """\
{%- macro render(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}
{%- for part in content -%}
{%- if part.type == 'image' or 'image' in part -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' or 'video' in part -%}<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'text' in part -%}{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'system' and message.content is not string -%}
{%- for part in message.content -%}{%- if 'text' in part -%}{{- part.text -}}{%- endif -%}{%- endfor -%}
{%- else -%}{{- render(message.content) -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

PATCH_SIZE = 16
MERGE_SIZE = 2
MERGED_SIZE = PATCH_SIZE * MERGE_SIZE
# From 1 to 1,280 merged patches: a demo screen (15) is never rescaled.
PIXEL_LIMITS = {"shortest_edge": MERGED_SIZE**2, "longest_edge": 1280 * MERGED_SIZE**2}

VOCABULARY_SIZE = 440
MAX_TOKENS = 2048
_POSITION_GRID = 16
_POSITION_FREQUENCIES = 16
_TEXT_EMBEDDING_STD = 0.1
_RESIDUAL_OUTPUT_SCALE = 0.4


def build_processor() -> Qwen3VLProcessor:
    """Return the demo's processor: Qwen's image and video processing with a small tokenizer.

    Images keep their size if it is a multiple of 32 px; pixel values are in [-1, 1].
    """
    image_settings: dict[str, Any] = {
        "patch_size": PATCH_SIZE,
        "merge_size": MERGE_SIZE,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=PIXEL_LIMITS, **image_settings),
        tokenizer=_build_tokenizer(),
        video_processor=Qwen3VLVideoProcessor(**image_settings),
        chat_template=CHAT_TEMPLATE,
    )


def _build_tokenizer() -> Qwen2Tokenizer:
    """Train a byte-level BPE with Qwen's own pre-tokenisation, in which every digit is a token."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(_tokenizer_text(), trainer)
    vocabulary = learner.get_vocab()
    for token in SPECIAL_TOKENS:
        vocabulary[token] = len(vocabulary)
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]],
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        unk_token=None,
        padding_side="left",
        model_max_length=MAX_TOKENS,
    )
    tokenizer.add_special_tokens({"extra_special_tokens": list(SPECIAL_TOKENS)})
    return tokenizer


def _tokenizer_text() -> list[str]:
    """Return every kind of text in the demo, so that the tokenizer has all words, those new to the model included."""
    lines = ["system\n", "user\n", "assistant\n"]
    for wording in (*GENERIC_WORDINGS, *KNOWN_WORDINGS, *NEW_WORDINGS):
        lines.extend(PROMPT.format(command=f"{wording} {app}") for app in APPS)
        for colour in COLOURS:
            lines.extend(PROMPT.format(command=f"{wording} the {colour} {shape}") for shape in SHAPES)
            lines.extend(ANSWER.format(content=f"{colour} {shape}", x=500, y=500) for shape in SHAPES)
    return lines


def build_model(processor: Qwen3VLProcessor, seed: int) -> Qwen3VLForConditionalGeneration:
    """Return an untrained fp32 model for ``processor``'s vocabulary; ``seed`` determines the weights."""
    tokenizer = processor.tokenizer
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": MAX_TOKENS,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "temporal_patch_size": 2,
            "out_hidden_size": 128,
            "num_position_embeddings": _POSITION_GRID**2,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        vision_start_token_id=processor.vision_start_token_id,
        vision_end_token_id=processor.vision_end_token_id,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    initialise(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


@torch.no_grad()
def initialise(model: Qwen3VLForConditionalGeneration) -> None:
    """Draw the weights again so that a tiny model can learn; the module's docstring says why.

    Linear and convolution weights ~ N(0, 1 / fan_in) with zero bias, a 2-D sinusoid as vision position embedding,
    larger text embeddings, and damped outputs into the residual stream.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv3d) and module is not model.lm_head:
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith(("o_proj", "down_proj")):
                module.weight.mul_(_RESIDUAL_OUTPUT_SCALE)
    nn.init.normal_(model.model.language_model.embed_tokens.weight, std=_TEXT_EMBEDDING_STD)
    model.model.visual.pos_embed.weight.copy_(_sinusoid_positions())


def _sinusoid_positions() -> torch.Tensor:
    """Return (256, 64): sines and cosines of the row and column of each cell of a 16 x 16 grid on [0, 1]."""
    along = torch.linspace(0, 1, _POSITION_GRID)
    frequencies = torch.logspace(math.log10(0.5 * math.pi), math.log10(8 * math.pi), _POSITION_FREQUENCIES)
    y, x = torch.meshgrid(along, along, indexing="ij")
    angles_y = y.reshape(-1, 1) * frequencies
    angles_x = x.reshape(-1, 1) * frequencies
    return torch.cat([angles_y.sin(), angles_y.cos(), angles_x.sin(), angles_x.cos()], dim=1)
