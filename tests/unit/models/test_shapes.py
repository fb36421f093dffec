"""The shapes that speeds are compared on cost what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tests.support.benchmarks import benchmark_module
from tests.unit.conftest import BASE
from usertune.models.conversation import ConversationTokenizer
from usertune.models.families.catalogue import family_of
from usertune.models.loading import load_processor
from usertune.models.recipe import Pixels

shapes = benchmark_module("shapes")
VISUAL, OTHER = 987, 90


def ratios(name: str) -> tuple[float, float]:
    parts = shapes.flops(shapes.SHAPES[name].differences, VISUAL, OTHER)
    return parts["vision"] / parts["body"], parts["head"] / parts["body"]


def test_flops_are_those_that_torch_counts() -> None:
    differences = shapes.SHAPES["tiny"].differences
    config = Qwen3VLConfig(**shapes.config_of(differences), attn_implementation="eager")
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    model.set_attn_implementation("eager")
    model.to_empty(device="cpu")
    ids = torch.tensor([[*[1] * 5, *[config.image_token_id] * 32, *[2] * 7]])
    kinds = (ids == config.image_token_id).int()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(
            input_ids=ids,
            mm_token_type_ids=kinds,
            pixel_values=torch.zeros(128, 3 * 2 * 16 * 16),
            image_grid_thw=torch.tensor([[1, 16, 8]]),
        )
    expected = sum(shapes.flops(differences, 32, 12).values())
    # Rotary positions take a few more.
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_the_proportional_shape_has_the_ratios_of_the_2b() -> None:
    vision, head = ratios("true-2b")
    assert 1.2 < vision < 1.3
    assert 0.19 < head < 0.21
    assert ratios("proportional") == pytest.approx((vision, head), rel=0.06)


def test_the_whole_vocabulary_is_an_extreme() -> None:
    assert ratios("vocabulary")[1] > 10 * ratios("true-2b")[1]


def test_every_answer_has_as_many_trained_tokens(tmp_path: Path) -> None:
    conversations = ConversationTokenizer(load_processor(BASE, Pixels()), family_of(BASE))
    samples = shapes.screenshots(tmp_path, 6, (128, 256))
    tokenized = [conversations.conversation(sample) for sample in samples]
    assert {sum(one.is_answer) for one in tokenized} == {shapes.TRAINED_TOKENS}
    assert len({len(one.input_ids) for one in tokenized}) > 1
