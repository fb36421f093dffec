"""How many steps a training takes, and how many of them are its warm-up."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usertune.core.errors import FinalError
from usertune.study.schema.training import Training
from usertune.training.schedule import optimizer_steps, warm_up


def eight(**settings: Any) -> Training:
    """Return settings of one epoch in steps of eight."""
    return Training(batch_size=8, epochs=1.0, **settings)


@pytest.mark.parametrize(("samples", "epochs", "steps"), [(56, 1, 7), (57, 1, 8), (57, 2, 16), (57, 0.5, 4), (1, 3, 3)])
def test_the_last_step_of_an_epoch_takes_what_is_left(samples: int, epochs: float, steps: int) -> None:
    assert optimizer_steps(samples, 8, epochs) == steps


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_share_is_rounded_up_and_leaves_a_step_at_the_full_rate(samples: int, share: float) -> None:
    steps = optimizer_steps(samples, 8, 1)
    found = warm_up(eight(warmup=share), samples)
    assert 0 <= found < steps
    assert found in (math.ceil(share * steps), steps - 1)


@pytest.mark.parametrize(("settings", "expected"), [({}, 3), ({"warmup": 0}, 0), ({"warmup_steps": 99}, 99)])
def test_the_number_of_steps_counts_where_there_is_one(settings: dict[str, Any], expected: int) -> None:
    assert warm_up(eight(**settings), 800) == expected


def test_a_warm_up_that_reaches_the_number_of_steps_is_refused_with_the_number_to_write() -> None:
    assert warm_up(eight(warmup_steps=7), 64) == 7
    with pytest.raises(FinalError) as refused:
        warm_up(eight(warmup_steps=8), 64, "lora")
    assert str(refused.value) == (
        "training.warmup_steps of experiment lora is 8, but training takes only 8 steps (64 samples, batch_size 8, "
        "epochs 1), so the learning rate would not reach its peak; write warmup_steps: 1, or leave it out: warmup "
        "is a share of the steps (0.03)"
    )
