"""Which process sees which sample, when."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from usertune.models.conversation import TokenizedConversation
from usertune.training.batches import DUMMY, Samples, Share, StepBatches


def _samples(images: list[bool]) -> Samples:
    conversations = [TokenizedConversation([1] * (3 + number), [True] * (3 + number)) for number in range(len(images))]
    pairs: Any = [({"images": ["one"] * image}, tokens) for image, tokens in zip(images, conversations, strict=True)]
    return Samples(pairs)


@st.composite
def set_ups(draw: st.DrawFn) -> tuple[Samples, int, int, int, int | None]:
    """Draw samples, the processes, the micro-batch, how many of it an optimizer step takes, and the seed."""
    images = draw(st.lists(st.booleans(), min_size=1, max_size=40))
    processes, micro_batch_size, accumulated = (draw(st.integers(1, 4)) for _ in range(3))
    return _samples(images), processes, micro_batch_size, accumulated, draw(st.none() | st.integers(0, 9))


def _steps(batches: StepBatches, accumulated: int) -> list[list[list[int]]]:
    passes = list(batches)
    return [passes[start : start + accumulated] for start in range(0, len(passes), accumulated)]


@given(set_ups(), st.integers(0, 3))
def test_every_step_has_the_samples_that_one_process_gives_it(
    set_up: tuple[Samples, int, int, int, int | None], epoch: int
) -> None:
    samples, processes, micro_batch_size, accumulated, seed = set_up
    per_step = processes * micro_batch_size * accumulated
    alone = StepBatches(samples, per_step, per_step, Share(), seed)
    shares = [
        StepBatches(samples, per_step, micro_batch_size, Share(rank, processes), seed) for rank in range(processes)
    ]
    for batches in (alone, *shares):
        batches.set_epoch(epoch)
    assert len({len(batches) for batches in shares}) == 1
    expected = list(alone)
    assert sorted(number for step in expected for number in step) == list(range(len(samples)))
    own = [_steps(batches, accumulated) for batches in shares]
    for rank, steps in enumerate(own):
        assert sum(len(step) for step in steps) == len(shares[rank]), "as long as it says"
        assert len(steps) == len(expected)
    for number, step in enumerate(expected):
        parts = [steps[number] for steps in own]
        assert len({len(part) for part in parts}) == 1, "equally many passes in every process"
        found = [sample for part in parts for batch in part for sample in batch if sample != DUMMY]
        assert sorted(found) == sorted(step), "no sample twice, and none left out"
        assert all(len([one for one in batch if one != DUMMY]) <= micro_batch_size for part in parts for batch in part)


@given(set_ups())
def test_every_pass_of_several_processes_has_an_image_if_any_sample_has_one(
    set_up: tuple[Samples, int, int, int, int | None],
) -> None:
    samples, processes, micro_batch_size, accumulated, seed = set_up
    for rank in range(processes):
        batches = StepBatches(
            samples, processes * micro_batch_size * accumulated, micro_batch_size, Share(rank, processes), seed
        )
        for batch in batches:
            with_image = [bool(samples[number][0]["images"]) for number in batch]
            assert batch
            assert processes == 1 or any(with_image) == any(samples.has_image)
            assert processes > 1 or DUMMY not in batch


def test_no_token_of_a_dummy_sample_counts_and_it_has_an_image_where_there_is_one() -> None:
    sample, tokens, number = _samples([False, True, True])[DUMMY]
    assert number == DUMMY
    assert sample["images"] == ["one"]
    assert tokens == TokenizedConversation([1] * 4, [False] * 4)
    assert _samples([False])[DUMMY][0]["images"] == []


def test_the_order_is_new_in_each_epoch_and_the_same_for_the_same_seed() -> None:
    def orders(seed: int | None) -> list[list[int]]:
        batches = StepBatches(_samples([True] * 30), 30, 30, Share(), seed)
        found = []
        for epoch in range(3):
            batches.set_epoch(epoch)
            found.extend(batches)
        return found

    assert orders(None) == [list(range(30))] * 3
    assert orders(3) == orders(3)
    assert len({tuple(order) for order in orders(3) + orders(7)}) == 6
