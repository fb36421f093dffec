"""The search for similar hashes finds what comparing all with all finds."""

from __future__ import annotations

import random
import time
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usertune.data import near_duplicates
from usertune.data.near_duplicates import MOST_BITS, HashIndex

ANY = st.integers(0, 2**256 - 1)


def text(value: int) -> str:
    return f"{value:064x}"


def near(value: int, changed: set[int]) -> int:
    for bit in changed:
        value ^= 1 << bit
    return value


@st.composite
def indexed_and_asked(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Some hashes, and others that differ from them in up to 40 bits, anywhere or close together."""
    known = draw(st.lists(ANY | st.sampled_from([0, 2**256 - 1]), max_size=8))
    where = st.sets(st.integers(0, 255), max_size=40) | st.sets(st.integers(96, 140), max_size=40)
    asked = draw(st.lists(ANY, max_size=3))
    if known:
        asked += [near(draw(st.sampled_from(known)), draw(where)) for _ in range(draw(st.integers(0, 6)))]
    return known, asked


@settings(max_examples=100)
@given(indexed_and_asked(), st.integers(0, MOST_BITS), st.sampled_from([1, 3, near_duplicates.CHUNK]))
def test_it_finds_a_similar_hash_exactly_where_there_is_one(
    hashes: tuple[list[int], list[int]], within: int, chunk: int
) -> None:
    known, asked = hashes
    with patch.object(near_duplicates, "CHUNK", chunk):
        positions, distances = HashIndex(list(map(text, known))).find(list(map(text, asked)), within)
    assert len(positions) == len(asked)
    for value, position, distance in zip(asked, positions, distances, strict=True):
        all_bits = [(value ^ other).bit_count() for other in known]
        assert (position >= 0) == (min(all_bits, default=256) <= within)
        assert distance == (all_bits[position] if position >= 0 else -1)


@pytest.mark.parametrize("within", [-1, MOST_BITS + 1])
def test_a_difference_that_it_would_miss_is_refused(within: int) -> None:
    with pytest.raises(ValueError, match="this search finds differences of 0 to 31 bits"):
        HashIndex([text(1)]).find([text(1)], within)


def test_ten_thousand_hashes_are_looked_for_among_as_many_in_seconds() -> None:
    chance = random.Random(0)
    known = [chance.getrandbits(256) for _ in range(10_000)]
    asked = [near(value, set(chance.sample(range(256), 20))) for value in known[:100]]
    asked += [chance.getrandbits(256) for _ in range(9_900)]
    start = time.process_time()
    positions, _ = HashIndex(list(map(text, known))).find(list(map(text, asked)), 24)
    assert time.process_time() - start < 20
    assert list(positions) == [*range(100), *[-1] * 9_900]
