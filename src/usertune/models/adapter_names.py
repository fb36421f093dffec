"""Names of an adapter's tensors, as different trainers write them. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable

# PEFT's names begin with this, for a model in which it has put adapters.
PREFIX = "base_model.model."
# Wrappers of a model, whose names trainers leave in a state that they save themselves.
_WRAPPERS = frozenset({"module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"})
# The adapter's own name in the state of a model: PEFT leaves it out of a file.
_ADAPTER = re.compile(r"(\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))\.[^.]+(?=\.weight$|\.bias$|$)")
_SAVED_MODULE = re.compile(r"\.modules_to_save\.[^.]+(?=\.)")


def peft_name(name: str) -> str:
    """Return the name that PEFT gives a tensor of an adapter file.

    The file may have the names of the wrapped model's state: with the adapter's name (``lora_A.default.weight``,
    ``modules_to_save.default.``), with those of wrappers (``module.``, FSDP's), or without ``base_model.model.``.
    """
    plain = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    # lora_A.weight itself looks like an adapter called "weight".
    if not re.search(r"\.lora_\w+\.weight$", plain):
        plain = _ADAPTER.sub(r"\1", plain)
    plain = _SAVED_MODULE.sub("", plain)
    return plain if plain.startswith(PREFIX) else PREFIX + plain


def peft_names(names: Iterable[str]) -> dict[str, str]:
    """Return name in the file -> PEFT's name.

    Raises:
        ValueError: two tensors have the same one, since the file holds several adapters.
    """
    found = {name: peft_name(name) for name in names}
    if len(set(found.values())) < len(found):
        seen: dict[str, str] = {}
        for name, plain in found.items():
            if plain in seen:
                raise ValueError(f"it holds several adapters ({seen[plain]} and {name}); save one of them alone")
            seen[plain] = name
    return found
