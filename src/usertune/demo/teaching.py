"""Train the demo's base model in two stages to find icons on generic screens.

Stage A trains the vision tower with linear heads that are discarded afterwards; stage B trains the language model with
the vision tower frozen. Without stage A, training stays at chance: the vision tower does not learn to encode an icon's
position until the language model can use it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from usertune.demo.progress_bar import progress_bar
from usertune.demo.screens import (
    CELL,
    COLOURS,
    COLUMNS,
    MAX_JITTER,
    PROMPT,
    ROWS,
    SHAPES,
    Screen,
    draw_screen,
    generic_command,
    generic_screen,
    reference_answer,
)

logger = logging.getLogger(__name__)

CELLS = COLUMNS * ROWS
BETAS = (0.9, 0.95)
IGNORED = -100

WARM_UP_STEPS = 500
WARM_UP_SCREENS = 96
WARM_UP_RATE = 3e-3
LANGUAGE_RATE = 2e-3


@dataclass(frozen=True)
class Phase:
    """A part of stage B's curriculum: each step has ``screens`` new screens and ``questions`` about each."""

    min_icons: int
    max_icons: int
    questions: int
    screens: int
    steps: int


# One icon teaches the answer's format and positions, two teach choosing, many teach searching.
CURRICULUM = (Phase(1, 1, 1, 64, 50), Phase(2, 2, 2, 48, 100), Phase(3, 9, 4, 24, 1000))


def settings() -> dict[str, Any]:
    """Return the training settings other than the seed, for the record."""
    return {
        "warm_up": {"steps": WARM_UP_STEPS, "screens": WARM_UP_SCREENS, "rate": WARM_UP_RATE},
        "language": {"rate": LANGUAGE_RATE, "curriculum": [asdict(phase) for phase in CURRICULUM]},
        "betas": list(BETAS),
    }


def warm_up_vision(
    model: Qwen3VLForConditionalGeneration,
    processor: Qwen3VLProcessor,
    rng: np.random.Generator,
    steps_scale: float,
) -> None:
    """Stage A: train the vision tower so that each visual token encodes its icon's colour, shape and position.

    The position is the cell (column and row) and the icon's offset from the cell's middle, in units of `MAX_JITTER`.
    """
    steps = _scaled(WARM_UP_STEPS, steps_scale)
    vision = model.model.visual
    sizes = (len(COLOURS) + 1, len(SHAPES) + 1, COLUMNS, ROWS, 2)
    heads = nn.ModuleList(nn.Linear(vision.config.out_hidden_size, size) for size in sizes)
    taught = [*vision.parameters(), *heads.parameters()]
    teacher = _Optimiser(taught, WARM_UP_RATE, warm_up=20, steps=steps, final_share=0.0)
    cells = torch.arange(CELLS).repeat(WARM_UP_SCREENS)
    for _ in progress_bar(range(steps), "stage A: vision"):
        screens = [generic_screen(int(rng.integers(3, 10)), rng) for _ in range(WARM_UP_SCREENS)]
        tokens = vision(*_pixels(processor, screens)).pooler_output
        colour, shape, column, row, offset = (head(tokens) for head in heads)
        colours, shapes, offsets = _cell_labels(screens)
        occupied = colours < len(COLOURS)
        loss = (
            functional.cross_entropy(colour, colours)
            + functional.cross_entropy(shape, shapes)
            + functional.cross_entropy(column, cells % COLUMNS)
            + functional.cross_entropy(row, cells // COLUMNS)
            + functional.mse_loss(offset[occupied], offsets[occupied])
        )
        teacher.step(loss)
    logger.info("stage A: loss of the last step %.3f", loss)


def _cell_labels(screens: list[Screen]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return per visual token, row by row: colour class, shape class (last one: empty) and offset (x, y)."""
    colours = np.full((len(screens), CELLS), len(COLOURS))
    shapes = np.full((len(screens), CELLS), len(SHAPES))
    offsets = np.zeros((len(screens), CELLS, 2), dtype=np.float32)
    names = list(COLOURS)
    for index, screen in enumerate(screens):
        for icon in screen.icons:
            cell = icon.row * COLUMNS + icon.column
            colours[index, cell] = names.index(icon.colour)
            shapes[index, cell] = SHAPES.index(icon.shape)
            middle = np.array([icon.column, icon.row]) * CELL + CELL // 2
            offsets[index, cell] = (np.array([icon.centre_x, icon.centre_y]) - middle) / MAX_JITTER
    return (
        torch.from_numpy(colours).flatten(),
        torch.from_numpy(shapes).flatten(),
        torch.from_numpy(offsets).flatten(0, 1),
    )


def teach_language(
    model: Qwen3VLForConditionalGeneration,
    processor: Qwen3VLProcessor,
    rng: np.random.Generator,
    steps_scale: float,
) -> None:
    """Stage B: train the language model on questions about generic screens, with the vision tower frozen."""
    steps = [_scaled(phase.steps, steps_scale) for phase in CURRICULUM]
    texts = _Texts(processor)
    language = model.model.language_model
    teacher = _Optimiser(list(language.parameters()), LANGUAGE_RATE, warm_up=50, steps=sum(steps), final_share=0.05)
    phases = [phase for phase, count in zip(CURRICULUM, steps, strict=True) for _ in range(count)]
    for phase in progress_bar(phases, "stage B: language"):
        loss = _question_loss(model, processor, texts, phase, rng)
        teacher.step(loss)
    logger.info("stage B: loss of the last step %.3f", loss)


def _question_loss(
    model: Qwen3VLForConditionalGeneration,
    processor: Qwen3VLProcessor,
    texts: _Texts,
    phase: Phase,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Return the mean cross-entropy of the answers' tokens for one step's screens and questions."""
    screens, dialogues = [], []
    for _ in range(phase.screens):
        screen = generic_screen(int(rng.integers(phase.min_icons, phase.max_icons + 1)), rng)
        screens.append(screen)
        for index in rng.integers(len(screen.icons), size=phase.questions):
            icon = screen.icons[index]
            dialogues.append((generic_command(icon, rng), reference_answer(icon)))
    tokens, labels = texts.encode(dialogues)
    # Every row has its image at the same position and is padded on the right. So the first row's positions fit all
    # rows, and causal attention hides the padding.
    kinds = (tokens[:1] == processor.image_token_id).int()
    pixels, grid = _pixels(processor, screens)
    positions, _ = model.model.get_rope_index(tokens[:1], image_grid_thw=grid[:1], mm_token_type_ids=kinds)
    hidden = model.model(
        input_ids=tokens,
        position_ids=positions.expand(-1, len(tokens), -1),
        mm_encoder_outputs={"image": _frozen_vision(model, pixels, grid, phase.questions)},
        use_cache=False,
    ).last_hidden_state
    following = labels[:, 1:]
    answered = following != IGNORED
    return functional.cross_entropy(model.lm_head(hidden[:, :-1][answered]), following[answered])


@torch.no_grad()
def _frozen_vision(
    model: Qwen3VLForConditionalGeneration, pixels: torch.Tensor, grid: torch.Tensor, copies: int
) -> BaseModelOutputWithDeepstackFeatures:
    """Encode each screen once, and repeat its features for each of the ``copies`` questions about it."""
    seen = model.model.visual(pixels, grid)

    def repeat(features: torch.Tensor) -> list[torch.Tensor]:
        return [features.view(len(grid), CELLS, -1).repeat_interleave(copies, dim=0).flatten(0, 1)]

    return BaseModelOutputWithDeepstackFeatures(
        pooler_output=repeat(seen.pooler_output),
        deepstack_features=[repeat(features) for features in seen.deepstack_features],
    )


class _Texts:
    """Tokenizes (command, answer) pairs; renders the chat template only once, for speed."""

    def __init__(self, processor: Qwen3VLProcessor) -> None:
        self._tokenizer = processor.tokenizer
        parts = [{"type": "image"}, {"type": "text", "text": PROMPT.format(command="COMMAND")}]
        slots = [{"role": "user", "content": parts}, {"role": "assistant", "content": "ANSWER"}]
        rendered = processor.apply_chat_template(slots, tokenize=False)
        rendered = rendered.replace(processor.image_token, processor.image_token * CELLS)
        before, after = rendered.split("COMMAND")
        middle, self._end = after.split("ANSWER")
        self._prompt = before + "{command}" + middle

    def encode(self, dialogues: list[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and labels, each (dialogues, longest); labels outside the answer are `IGNORED`."""
        prompts = self._tokenizer([self._prompt.format(command=text) for text, _ in dialogues]).input_ids
        answers = self._tokenizer([answer + self._end for _, answer in dialogues]).input_ids
        longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
        tokens = torch.full((len(dialogues), longest), self._tokenizer.pad_token_id)
        labels = torch.full((len(dialogues), longest), IGNORED)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            tokens[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        return tokens, labels


class _Optimiser:
    """AdamW with a linear warm-up, a cosine decay to ``final_share`` of the rate, and clipped gradients."""

    def __init__(
        self, parameters: list[nn.Parameter], rate: float, warm_up: int, steps: int, final_share: float
    ) -> None:
        self._parameters = parameters
        self._adam = torch.optim.AdamW(parameters, lr=rate, betas=BETAS, weight_decay=0.0)
        share = _rate_share(min(warm_up, steps), steps, final_share)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._adam, share)

    def step(self, loss: torch.Tensor) -> None:
        """Update the parameters by one step on ``loss``."""
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._adam.step()
        self._adam.zero_grad()
        self._schedule.step()


def _rate_share(warm_up: int, steps: int, final_share: float) -> Callable[[int], float]:
    def share(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        progress = (step - warm_up) / max(1, steps - warm_up)
        return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))

    return share


def _pixels(processor: Qwen3VLProcessor, screens: list[Screen]) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw ``screens``; return the processor's patches (patches, patch values) and grid (images, 3)."""
    images = [torch.from_numpy(np.array(draw_screen(screen))).permute(2, 0, 1) for screen in screens]
    features = processor.image_processor(images=images, return_tensors="pt")
    return features["pixel_values"], features["image_grid_thw"]


def _scaled(steps: int, scale: float) -> int:
    return max(1, round(steps * scale))
