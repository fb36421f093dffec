"""The last layer of the language model, computed only at the positions whose logits are used.

The loss reads the logits that predict an answer's tokens. Of the other positions the last layer has to compute keys and
values alone: nobody reads their queries, the attention of these, or what follows. All layers before need all positions.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from usertune.models.family import Family
from usertune.models.loading import plain_model
from usertune.training.sample_dropout import SampleDropout

# With more of a micro-batch's positions, attention without a mask, which can skip half of the pairs, is faster.
MOST_POSITIONS = 1 / 2
_ATTENTION = "sdpa_at_used_positions"


class LastLayer:
    """Narrows the last layer of a model to the positions of each micro-batch. Outputs elsewhere have no meaning.

    A last layer without softmax attention, or whose attention is not torch's own, is left as it is.

    Args:
        model: the model to train, with or without adapters; `draw_by_sample` comes first.
        family: its family.
    """

    def __init__(self, model: Any, family: Family) -> None:
        layer: Any = plain_model(model).get_submodule(f"model.{family.layers[0].name}")[-1]
        self._positions: torch.Tensor | None = None
        self._tokens = 0
        self._hooks: list[RemovableHandle] = []
        self._attention: Any = getattr(layer, family.attention, None)
        if self._attention is None or self._attention.config._attn_implementation != "sdpa":
            self._attention = None
            return
        self._config = self._attention.config
        # Its own, so that the other layers keep theirs.
        self._attention.config = copy(self._config)
        self._attention.config._attn_implementation = _ATTENTION
        self._attention.last_layer = self
        for name in family.positionwise:
            module = layer.get_submodule(name)
            self._hooks += [
                module.register_forward_pre_hook(self._narrow),
                module.register_forward_hook(self._widen),
            ]
            for dropout in module.modules():
                if isinstance(dropout, SampleDropout):
                    dropout.positions = lambda: self._positions

    def use(self, positions: torch.Tensor, tokens: int) -> None:
        """Compute only these positions from the next forward pass on.

        Args:
            positions: numbers of the used positions, the same for all samples of the micro-batch, ascending. A process
                without samples of its own has none; then all are computed.
            tokens: length of the padded samples.
        """
        self._positions = positions if 0 < len(positions) <= MOST_POSITIONS * tokens else None
        self._tokens = tokens

    def remove(self) -> None:
        """Make the layer compute all positions again."""
        self._positions = None
        for hook in self._hooks:
            hook.remove()
        if self._attention is not None:
            self._attention.config = self._config
            del self._attention.last_layer

    def _narrow(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        return None if self._positions is None else (inputs[0].index_select(1, self._positions), *inputs[1:])

    def _widen(self, _: nn.Module, __: Any, outputs: torch.Tensor) -> torch.Tensor:
        return outputs if self._positions is None else self._spread(outputs, self._positions)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **settings: Any,
    ) -> torch.Tensor:
        """Return the attention of the used positions, and zeros elsewhere; arguments as of an attention interface."""
        positions = self._positions
        if positions is None or attention_mask is not None:
            return sdpa_attention_forward(self._attention, query, key, value, attention_mask, **settings)[0]
        sees = positions[:, None] >= torch.arange(self._tokens, device=positions.device)
        narrow, settings["is_causal"] = query.index_select(2, positions), False
        found = sdpa_attention_forward(self._attention, narrow, key, value, sees[None, None], **settings)[0]
        return self._spread(found, positions)

    def _spread(self, narrow: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        wide = narrow.new_zeros(narrow.shape[0], self._tokens, *narrow.shape[2:])
        return wide.index_copy(1, positions, narrow)


def _attend(module: Any, *inputs: Any, **settings: Any) -> tuple[torch.Tensor, None]:
    return module.last_layer.attend(*inputs, **settings), None


AttentionInterface.register(_ATTENTION, _attend)
