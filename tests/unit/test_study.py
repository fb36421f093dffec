"""What a study works out from its settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from usertune.experiments import Experiment, Training


@st.composite
def trainings(draw: st.DrawFn) -> Training:
    """Draw training settings; the micro-batch has to divide the batch."""
    batch = draw(st.integers(1, 1024))
    micro_batch = draw(st.sampled_from([size for size in range(1, batch + 1) if batch % size == 0]))
    return Training(batch_size=batch, micro_batch=micro_batch)


@given(trainings(), st.integers(1, 20))
def test_each_attempt_takes_at_most_half_of_the_one_before_and_divides_the_batch(
    training: Training, attempt: int
) -> None:
    first, size, later = (training.micro_batch_of(number) for number in (1, attempt, attempt + 1))
    assert first == training.micro_batch
    assert training.batch_size % size == 0
    assert 1 <= later <= max(1, size // 2)
    assert size <= max(1, training.micro_batch / 2 ** (attempt - 1))


def test_the_micro_batch_of_a_few_attempts() -> None:
    def sizes(batch_size: int, micro_batch: int) -> list[int]:
        training = Training(batch_size=batch_size, micro_batch=micro_batch)
        return [training.micro_batch_of(attempt) for attempt in (1, 2, 3, 4)]

    assert sizes(8, 8) == [8, 4, 2, 1]
    assert sizes(8, 1) == [1, 1, 1, 1]
    assert sizes(6, 6) == [6, 3, 1, 1]
    assert sizes(20, 20) == [20, 10, 5, 2]
    assert sizes(7, 7) == [7, 1, 1, 1]


@given(trainings(), st.integers(1, 64), st.integers(1, 20))
def test_with_several_processes_each_attempt_still_divides_the_batch(
    training: Training, processes: int, attempt: int
) -> None:
    together = training.model_copy(update={"batch_size": training.batch_size * processes})
    size, later = (together.micro_batch_of(number, processes) for number in (attempt, attempt + 1))
    assert together.batch_size % (size * processes) == 0
    assert 1 <= later <= max(1, size // 2)


def test_the_micro_batch_of_a_few_attempts_with_several_processes() -> None:
    training = Training(batch_size=24, micro_batch=6)
    assert [training.micro_batch_of(attempt, 4) for attempt in (1, 2, 3, 4)] == [6, 3, 1, 1]
    assert [training.micro_batch_of(attempt, 2) for attempt in (1, 2, 3, 4)] == [6, 3, 1, 1]


@pytest.mark.parametrize(
    ("settings", "processes", "strategy"),
    [
        ({"mode": "full"}, 1, "ddp"),
        ({"mode": "full", "gpus": 2}, 2, "fsdp"),
        ({"mode": "full", "nodes": 2, "gpus": 4}, 8, "fsdp"),
        ({"mode": "full", "gpus": 2, "parallel": "ddp"}, 2, "ddp"),
        ({"mode": "lora", "gpus": 2}, 2, "ddp"),
    ],
)
def test_full_fine_tuning_on_several_gpus_is_sharded_and_adapters_are_not(
    settings: dict[str, object], processes: int, strategy: str
) -> None:
    experiment = Experiment.model_validate(settings)
    assert (experiment.processes, experiment.strategy) == (processes, strategy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "vanilla", "gpus": 2}, "an experiment of mode vanilla is not trained; remove gpus"),
        ({"mode": "vanilla", "nodes": 1, "parallel": "auto"}, "remove nodes, parallel"),
        ({"mode": "lora", "gpus": 2, "parallel": "fsdp"}, "parallel: fsdp is for mode full"),
        (
            {"mode": "full", "gpus": 2, "nodes": 3, "training": {"batch_size": 8, "micro_batch": 2}},
            "training.batch_size (8) must be a multiple of training.micro_batch x gpus x nodes (2 x 2 x 3)",
        ),
        ({"mode": "full", "gpus": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Experiment.model_validate(settings)
    assert message in str(refused.value)
