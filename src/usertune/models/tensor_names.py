"""Compares the names of the tensors in a model's files with those that its configuration needs. Needs no torch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from usertune.models.family import Family, Layers
from usertune.models.tensor_files import Shapes, differences, is_computed


def wrong_names(shapes: Shapes, family: Family, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a description of missing and unexpected tensors, for a model of this family and configuration."""
    # transformers accepts names with and without this prefix.
    names = {name.removeprefix("model.") for name in shapes if not is_computed(name)}
    names = {name for name in names if not re.fullmatch(family.unused_tensors, name)}
    of_part = {
        part: {name for name in names if name.startswith(f"{part}.")}
        for part in (*(layers.name for layers in family.layers), *family.single_parts)
    }
    tied = bool(config.get("tie_word_embeddings"))
    enough = {family.head, family.embedding} if tied else set()
    missing = [
        f"{part}.*"
        for part in family.single_parts
        if not of_part[part] and not (part in enough and any(of_part[other] for other in enough))
    ]
    beyond = names.difference(*of_part.values())
    for layers in family.layers:
        found = _Numbered(layers, of_part[layers.name], family, config)
        missing += found.missing()
        beyond |= found.beyond()
    if problem := differences(missing, beyond):
        yield f"the weights do not match config.json: {problem}"


class _Numbered:
    """The tensors of a model's numbered layers, compared with the configuration.

    Args:
        layers: which layers.
        names: names of their tensors.
        family: the model's family.
        config: content of config.json.
    """

    def __init__(self, layers: Layers, names: set[str], family: Family, config: Mapping[str, Any]) -> None:
        self.layers, self.names = layers, names
        self.family, self.config = family, config
        count = (config.get(layers.section) or {}).get(layers.key)
        self.count = len(count) if isinstance(count, list) else count

    def missing(self) -> list[str]:
        """Return the layers without tensors, and the tensors that a layer lacks and others of its kind have."""
        own: dict[int, set[str]] = defaultdict(set)
        for name in self.names:
            if match := re.fullmatch(rf"{re.escape(self.layers.name)}\.(\d+)\.(.+)", name):
                own[int(match[1])].add(match[2])
        if not isinstance(self.count, int):
            return []
        of_kind: dict[str, set[str]] = defaultdict(set)
        for number, found in own.items():
            of_kind[self._kind(number)] |= found
        lacking = {
            number: of_kind[self._kind(number)] - own[number] if own.get(number) else {"*"}
            for number in range(self.count)
        }
        return [f"{self.layers.name}.{number}.{name}" for number, some in lacking.items() for name in sorted(some)]

    def beyond(self) -> set[str]:
        """Return the tensors of layers that the configuration does not have."""
        if not isinstance(self.count, int):
            return set()
        numbers = {name: name.removeprefix(f"{self.layers.name}.").partition(".")[0] for name in self.names}
        return {name for name, number in numbers.items() if not number.isdigit() or int(number) >= self.count}

    def _kind(self, number: int) -> str:
        return self.family.layer_kind(self.layers, number, self.config)
