"""The cache with room holds what transformers' own cache holds, whatever happens to it."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicLayer

from usertune.inference.roomy_cache import ROOM, RoomyLayer

SAMPLES, HEADS, SIZE = 2, 3, 4
STEPS = st.one_of(
    st.tuples(st.just("update"), st.integers(1, 2 * ROOM)),
    st.tuples(st.just("crop"), st.integers(-3, -1)),
    st.tuples(st.just("reorder_cache"), st.permutations(range(SAMPLES)).map(torch.tensor)),
    st.tuples(st.just("reset"), st.none()),
)


@given(st.integers(1, 3 * ROOM), st.lists(STEPS, max_size=8))
def test_it_holds_what_the_cache_of_transformers_holds(prompt: int, steps: list[tuple[str, Any]]) -> None:
    layers = RoomyLayer(), DynamicLayer()
    for step, value in [("update", prompt), *steps]:
        if step == "update":
            states = torch.randn(2, SAMPLES, HEADS, value, SIZE)
            returned = [layer.update(*states.clone()) for layer in layers]
            assert all(map(torch.equal, *returned))
        else:
            for layer in layers:
                getattr(layer, step)(*(() if value is None else (value,)))
        assert layers[0].get_seq_length() == layers[1].get_seq_length()
        assert layers[0].get_mask_sizes(1) == layers[1].get_mask_sizes(1)
        if layers[1].get_seq_length():
            assert torch.equal(layers[0].keys, layers[1].keys)
            assert torch.equal(layers[0].values, layers[1].values)


def test_a_token_is_written_where_there_is_room() -> None:
    layer = RoomyLayer()
    layer.update(*torch.randn(2, SAMPLES, HEADS, 10, SIZE))
    places = []
    for _ in range(ROOM + 1):
        keys, values = layer.update(*torch.randn(2, SAMPLES, HEADS, 1, SIZE))
        places.append((keys.data_ptr(), values.data_ptr()))
    assert len(set(places[:ROOM])) == 1
    assert places[ROOM] != places[0]
