"""The micro-batch of each attempt at a training."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usertune.core.errors import LackOfMemoryError, StopRequested
from usertune.training.micro_batch import NOTE, micro_batch_of_attempt, smaller

MEMORY, STOP_REQUESTED, BUG = LackOfMemoryError("out of memory"), StopRequested(15), RuntimeError("a bug")


def _attempt(work: Path, attempt: int, end: BaseException | None, asked: int = 8, share: int = 8) -> int:
    """Make an attempt that ends in some way; return its micro-batch."""
    sizes = []
    with suppress(*([type(end)] if end else [])), micro_batch_of_attempt(work, attempt, asked, share) as size:
        sizes.append(size)
        if end:
            raise end
    return sizes[0]


def _killed(work: Path, attempt: int, asked: int = 8, share: int = 8) -> int:
    """Make an attempt that ends without a word, as after SIGKILL; return its micro-batch."""
    begun = micro_batch_of_attempt(work, attempt, asked, share)
    size = begun.__enter__()
    note = (work / NOTE).read_bytes()
    begun.__exit__(None, None, None)
    (work / NOTE).write_bytes(note)
    return size


@given(st.integers(1, 1024), st.data())
def test_a_smaller_one_is_at_most_half_and_divides_the_share(share: int, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([number for number in range(1, share + 1) if share % number == 0]))
    found = smaller(size, share)
    halves = [number for number in range(1, share + 1) if share % number == 0 and 2 * number <= size]
    assert found == max(halves, default=1)


def test_memory_makes_each_attempt_smaller_than_the_one_before(tmp_path: Path) -> None:
    assert [_attempt(tmp_path, number, MEMORY, asked=6, share=6) for number in (1, 2, 3, 4)] == [6, 3, 1, 1]


def test_a_process_that_is_killed_may_have_lacked_memory(tmp_path: Path) -> None:
    assert [_killed(tmp_path, number) for number in (1, 2, 3)] == [8, 4, 2]


@pytest.mark.parametrize("end", [STOP_REQUESTED, BUG, KeyboardInterrupt()], ids=["stop requested", "bug", "Ctrl-C"])
def test_any_other_end_leaves_it_as_it_was(tmp_path: Path, end: BaseException) -> None:
    assert [_attempt(tmp_path, number, end) for number in (1, 2, 3)] == [8, 8, 8]
    _attempt(tmp_path, 2, MEMORY)
    assert [_attempt(tmp_path, number, end) for number in (3, 4)] == [4, 4]


def test_a_new_run_begins_with_what_the_study_asks_for(tmp_path: Path) -> None:
    _attempt(tmp_path, 1, MEMORY)
    _attempt(tmp_path, 2, MEMORY)
    assert _attempt(tmp_path, 1, None) == 8


def test_nothing_is_left_of_an_attempt_that_succeeds(tmp_path: Path) -> None:
    _attempt(tmp_path, 1, MEMORY)
    assert _attempt(tmp_path, 2, None) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("note", ["", "{", "[]", "{}", '{"micro_batch_size": "4"}', '{"micro_batch_size": 0}'])
def test_a_damaged_note_counts_for_nothing(tmp_path: Path, note: str) -> None:
    (tmp_path / NOTE).write_text(note)
    assert _attempt(tmp_path, 2, None) == 8


@pytest.mark.parametrize(("asked", "share"), [(2, 8), (3, 9)], ids=["less is asked for", "it does not divide"])
def test_a_note_of_other_settings_counts_for_nothing(tmp_path: Path, asked: int, share: int) -> None:
    _attempt(tmp_path, 1, MEMORY, asked=4, share=8)
    assert _attempt(tmp_path, 2, None, asked, share) == asked


def test_a_disk_that_fills_up_hides_no_other_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), micro_batch_of_attempt(tmp_path, 1, 8, 8):
        (tmp_path / NOTE).unlink()
        tmp_path.rmdir()
        tmp_path.write_text("a file where the folder was")
        raise BUG
