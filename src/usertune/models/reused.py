"""A loaded model that several trainings share, one after another."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from peft import PeftModel

from usertune.models.conversation import ConversationTokenizer
from usertune.models.image_memory import ImageMemory


class ReusedModel:
    """One loaded model for several trainings of adapters, one after another.

    Args:
        load: loads the model; called for the first training, and again after one that failed.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._model: Any = None
        self.images: ImageMemory | None = None
        """What the trainings keep of images: the vision tower is the same for all."""
        self.conversations: ConversationTokenizer | None = None
        """The tokenizer of all, with the processor, once a training made it."""

    def take(self) -> Any:
        """Return the model without adapters. It must come back by `give_back` before the next training."""
        model, self._model = self._model, None
        # The last training's optimizer and activations are in reference cycles.
        gc.collect()
        return self._load() if model is None else model

    def give_back(self, adapted: PeftModel) -> None:
        """Remove a trained adapter. The model is then the one that was loaded, to the bit: its weights are frozen."""
        plain: Any = adapted.unload()
        # Hooks that let gradients reach the adapters. Each preparation for training adds its own.
        plain.get_input_embeddings()._forward_hooks.clear()
        self._model = plain.eval()
