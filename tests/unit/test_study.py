"""What a study works out from its settings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from usertune.experiments import Training


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
