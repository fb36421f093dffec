"""Many trained weights, one at a time: adapters on one loaded base model, or complete models one after another.

Memory holds one base model and one adapter, or one complete model, however many there are.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn

from usertune.models.loading import (
    TRAIN_AGAIN,
    device,
    fill_adapter,
    load_model,
    load_start,
    read_adapter_config,
)
from usertune.models.recipe import StartWeights
from usertune.models.weights import loading

# Keys of an adapter's settings that say where it is from, not what it is.
FROM = ("base_model_name_or_path", "revision", "auto_mapping", "peft_version")


class OneAtATime:
    """The models of an experiment; `use` returns the one with a key.

    Args:
        base_folder: the base model's folder.
        start: weights that the trained weights started from; None for the base model.
        mode: "lora" (adapters) or "full" (complete models).
        folders: key -> folder of the trained weights.
        dtype: number format of the weights, "float32" or "bfloat16".
    """

    def __init__(
        self,
        base_folder: Path,
        start: StartWeights | None,
        mode: str,
        folders: Mapping[str, Path],
        dtype: str,
    ) -> None:
        self._folders, self._dtype = folders, dtype
        self._slot = (
            AdapterSlot(load_start(base_folder, start, dtype, device()).to(device()).eval()) if mode == "lora" else None
        )
        self._key: str | None = None
        self._model: Any = None

    def offer(self, folders: Mapping[str, Path]) -> None:
        """Replace the trained weights that there are, on the same base model."""
        self._folders = folders
        self._key = self._model = None

    def use(self, key: str) -> Any:
        """Return the model with a key, ready for generation; the last one that was returned must no longer be used.

        Raises:
            UserError: the weights cannot be used.
        """
        if key == self._key:
            return self._model
        self._key = self._model = None
        if self._slot is None:
            # Two complete models may not fit into memory.
            gc.collect()
            torch.cuda.empty_cache()
            self._model = load_model(self._folders[key], self._dtype, TRAIN_AGAIN, device()).to(device()).eval()
        else:
            self._model = self._slot.put(self._folders[key])
        self._key = key
        return self._model


class AdapterSlot:
    """A base model with room for one adapter. An adapter with the settings of the last one only replaces its tensors.

    Args:
        base: the base model, on its device.
    """

    def __init__(self, base: nn.Module) -> None:
        self._base = base
        self._adapted: PeftModel | None = None
        self._settings: dict[str, Any] | None = None

    def put(self, folder: Path) -> PeftModel:
        """Return the base model with this adapter, which replaces the last one.

        Raises:
            UserError: the adapter's tensors do not match its settings or the base model, or are not finite.
        """
        with loading(folder, TRAIN_AGAIN):
            config = read_adapter_config(folder)
        settings = _settings_of(config)
        # None while the tensors change, so that an adapter that failed half-way is not taken for a good one.
        before, self._settings = self._settings, None
        if self._adapted is None or before != settings:
            if self._adapted is not None:
                unloaded: Any = self._adapted
                self._base = unloaded.unload()
            with loading(folder, TRAIN_AGAIN):
                self._adapted = get_peft_model(self._base, config).eval()
        fill_adapter(self._adapted, folder)
        self._settings = settings
        return self._adapted


def _settings_of(config: PeftConfig) -> dict[str, Any]:
    return {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
        if key not in FROM
    }
