"""Adapters on a server: under which name, and whether it can load them. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.files import read_json
from usertune.core.hashing import digest, digest_file
from usertune.models.family import Family
from usertune.models.tensor_files import tensor_shapes

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAME_DIGITS = 16
# The ranks that vLLM has kernels for (vllm/config/lora.py, MaxLoRARanks).
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Settings that decide what an adapter does, with the values at which vLLM takes it for what PEFT takes it for.
PLAIN: dict[str, Any] = {"use_dora": False, "bias": "none", "modules_to_save": None, "fan_in_fan_out": False}
TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_[AB]\.weight")


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter for a server.

    Attributes:
        name: its name at the server, a digest of its files: weights that were trained again have another name, so a
            server that still has the old ones cannot answer for them.
        folder: its folder.
        rank: its largest rank.
    """

    name: str
    folder: Path
    rank: int


def adapter_name(folder: Path) -> str:
    """Return the name of an adapter at a server.

    Raises:
        UserError: a file of the adapter is missing.
    """
    try:
        files = {name: digest_file(folder / name) for name in (CONFIG, WEIGHTS)}
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; train the experiment again") from None
    return f"adapter-{digest(files)[:NAME_DIGITS]}"


def served_adapter(folder: Path, family: Family) -> ServedAdapter:
    """Return what a server needs to know of an adapter, after checking that it can load it.

    A server drops tensors that it does not expect without a word (vLLM's issues 34186 and 48019), so all must belong to
    the linear layers of the language model, under the names of the complete model.

    Raises:
        UserError: the adapter cannot be used at a server, or a file is missing or damaged.
    """
    name = adapter_name(folder)
    config = read_json(folder / CONFIG)
    for key, value in PLAIN.items():
        if (config.get(key) or None) != (value or None):
            raise UserError(
                f"{folder}: {key} of its {CONFIG} is {config[key]!r}; a server may not take that into account"
            )
    shapes = tensor_shapes(folder / WEIGHTS)
    modules = {tensor: TENSOR.fullmatch(tensor) for tensor in shapes}
    foreign = [
        tensor
        for tensor, found in modules.items()
        if found is None or not re.fullmatch(family.adapted_modules, found["module"])
    ]
    if foreign or not shapes:
        shown = f"such as {sorted(foreign)[0]}" if foreign else "none at all"
        raise UserError(
            f"{folder}: {len(foreign)} of {len(shapes)} tensors, {shown}, do not belong to a linear layer of the "
            f"language model of {family.title}; a server would ignore them, and answer as the base model"
        )
    ranks = [shape[0] for tensor, shape in shapes.items() if ".lora_A." in tensor]
    return ServedAdapter(name, folder, max(ranks))


def max_rank(adapters: Iterable[ServedAdapter]) -> int:
    """Return the smallest rank with kernels in vLLM that all adapters fit.

    Raises:
        UserError: the rank of an adapter is larger than all of them.
    """
    largest = max(adapters, key=lambda adapter: adapter.rank)
    found = next((rank for rank in RANKS if rank >= largest.rank), None)
    if found is None:
        raise UserError(f"{largest.folder}: its rank is {largest.rank}; vLLM's largest is {RANKS[-1]}")
    return found
