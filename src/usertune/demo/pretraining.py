"""Build, train, evaluate and save the demo's base model."""

from __future__ import annotations

import math
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from usertune.core.errors import UserError
from usertune.core.files import write_json, write_text
from usertune.demo.base import build_model, build_processor
from usertune.demo.progress_bar import progress_bar
from usertune.demo.screens import PROMPT, Screen, draw_screen, generic_command, generic_screen, parse_point
from usertune.demo.teaching import settings, teach_language, warm_up_vision

HIT_DISTANCE = 140
MAX_ANSWER_TOKENS = 32
HELD_OUT_SCREENS = 300
HELD_OUT_ICONS = 6

MODEL_CARD = """\
---
license: apache-2.0
---
# Demo base model

A real `Qwen3VLForConditionalGeneration` with {parameters:,} parameters, small enough to be fine-tuned on
a CPU in seconds. It reads synthetic phone screens of 96 x 160 pixels and points at the icon that a command
describes. It knows colours and shapes; it knows no app names and nothing of the real world.

Trained from scratch (no pretrained weights) by

    usertune demo pretrain demo/base --seed {seed}

in {seconds:.0f} seconds on {threads} CPU thread(s). On {screens} held-out generic screens with {icons} icons
it points within {distance} (of 1000) of the right one in {accuracy:.1%} of the cases; guessing an icon would
give {chance:.1%}. `pretraining.json` records the seed, the settings and the package versions.
"""


def pretrain(folder: Path, seed: int, steps_scale: float = 1.0) -> dict[str, Any]:
    """Build, train and evaluate the base model, and write it to ``folder`` with its ``pretraining.json``.

    Args:
        folder: folder for the model, the processor and the record; created if needed.
        seed: determines weights, screens and commands.
        steps_scale: multiplies all step counts; below 1 only for trials.

    Returns:
        The record: seed, settings, package versions, seconds and held-out accuracy (0-1) at `HIT_DISTANCE`.

    Raises:
        UserError: ``seed`` or ``steps_scale`` is out of range.
    """
    if seed < 0:
        raise UserError(f"the seed is {seed}; write a whole number from 0")
    if not 0 < steps_scale <= 10:
        raise UserError(f"the steps scale is {steps_scale}; write a number above 0 and at most 10")
    started = time.monotonic()
    processor = build_processor()
    model = build_model(processor, seed)
    warm_up_rng, language_rng, held_out_rng = (np.random.default_rng([seed, stage]) for stage in range(3))
    warm_up_vision(model, processor, warm_up_rng, steps_scale)
    teach_language(model, processor, language_rng, steps_scale)
    trained = time.monotonic()
    record = {
        "seed": seed,
        "steps_scale": steps_scale,
        "settings": settings(),
        "torch_threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "held_out": {
            "accuracy": generic_accuracy(model, processor, held_out_rng, HELD_OUT_SCREENS),
            "hit_distance": HIT_DISTANCE,
            "screens": HELD_OUT_SCREENS,
            "icons": HELD_OUT_ICONS,
        },
        "training_seconds": round(trained - started, 1),
        "packages": {name: version(name) for name in ("torch", "torchvision", "transformers", "tokenizers")},
    }
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_json(folder / "pretraining.json", record)
    write_text(folder / "README.md", model_card(record))
    return record


def model_card(record: dict[str, Any]) -> str:
    """Return the base model's README for ``record``, the result of `pretrain`."""
    held_out = record["held_out"]
    return MODEL_CARD.format(
        parameters=record["parameters"],
        seed=record["seed"],
        seconds=record["training_seconds"],
        threads=record["torch_threads"],
        screens=held_out["screens"],
        icons=held_out["icons"],
        distance=held_out["hit_distance"],
        accuracy=held_out["accuracy"],
        chance=1 / held_out["icons"],
    )


@torch.no_grad()
def generic_accuracy(
    model: Qwen3VLForConditionalGeneration,
    processor: Qwen3VLProcessor,
    rng: np.random.Generator,
    count: int,
    batch: int = 50,
) -> float:
    """Return the share (0-1) of ``count`` new generic screens on which the model points at the requested icon.

    A hit is a point within `HIT_DISTANCE` (relative, 0-1000) of the icon's centre; an answer in another format than the
    reference is a miss. Generation is greedy.
    """
    model.eval()
    hits = 0
    for start in progress_bar(range(0, count, batch), "held-out screens"):
        screens = [generic_screen(HELD_OUT_ICONS, rng) for _ in range(min(batch, count - start))]
        conversations = [question(screen, generic_command(screen.icons[0], rng)) for screen in screens]
        inputs = processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        output = model.generate(**inputs, max_new_tokens=MAX_ANSWER_TOKENS, do_sample=False)
        answers = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for screen, answer in zip(screens, answers, strict=True):
            point = parse_point(answer)
            hits += point is not None and math.dist(point, screen.icons[0].point) <= HIT_DISTANCE
    return hits / count


def question(screen: Screen, command: str) -> list[dict[str, Any]]:
    """Return a user turn with ``screen`` and ``command``, as messages for a chat template."""
    image = {"type": "image", "image": draw_screen(screen)}
    return [{"role": "user", "content": [image, {"type": "text", "text": PROMPT.format(command=command)}]}]
