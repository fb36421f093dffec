"""Keys and values of generated tokens, written into memory that is there already.

For each new token, transformers' cache copies the keys and values of all tokens before it, in every layer.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Tokens for which there is room whenever a layer's memory is allocated: copies are rare, and little stays unused.
ROOM = 64


class RoomyLayer(DynamicLayer):
    """The cache of a layer with softmax attention; keys and values are views of larger tensors."""

    keys: Any
    values: Any

    def __init__(self) -> None:
        super().__init__()
        # The tensors that keys and values are the beginnings of.
        self._memory = torch.empty(0, 0), torch.empty(0, 0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of new tokens, and return those of all.

        Args:
            key_states, value_states: shape (samples, heads, new tokens, size of a head).
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        # What reorders samples replaces the keys by others.
        if self.keys.data_ptr() != self._memory[0].data_ptr() or end > self._memory[0].shape[-2]:
            self._memory = self._wider(self.keys, key_states, end), self._wider(self.values, value_states, end)
        keys, values = self._memory
        keys[..., start:end, :], values[..., start:end, :] = key_states, value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    @staticmethod
    def _wider(known: torch.Tensor, new: torch.Tensor, tokens: int) -> torch.Tensor:
        wide = new.new_empty(*new.shape[:-2], tokens + ROOM, new.shape[-1])
        if len(known):
            wide[..., : known.shape[-2], :] = known
        return wide


def roomy_cache(model: Any) -> DynamicCache:
    """Return an empty cache for one call of a model's ``generate`` without beams."""
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
