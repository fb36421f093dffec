"""The key `hypothesis`: what the study is to show, and the comparisons that decide it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, model_validator

from usertune.core.errors import shown
from usertune.study.schema.base import ConfigModel


def _text(value: str) -> str:
    text = " ".join(value.split())
    if not text:
        raise ValueError("a sentence is needed")
    return text


def _pair(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{shown(value)} is no comparison; write two names, as in [personal, pooled]")
    return value


Pair = Annotated[tuple[str, str], BeforeValidator(_pair)]


def _or_a_sentence(schema: dict[str, Any]) -> None:
    section = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string"}, section]


class Hypothesis(ConfigModel):
    """What the study is to show: a sentence, or a sentence and the comparisons that decide it."""

    model_config = ConfigDict(json_schema_extra=_or_a_sentence)

    text: Annotated[str, AfterValidator(_text)]
    """A sentence, which the report prints above the result."""
    comparisons: tuple[Pair, ...] = ()
    """Pairs of experiments or groups: the first is compared with the second. p values are corrected for the number of
    pairs."""

    @model_validator(mode="before")
    @classmethod
    def _from_sentence(cls, raw: Any) -> Any:
        return {"text": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _check(self) -> Hypothesis:
        seen: set[frozenset[str]] = set()
        for pair in self.comparisons:
            if pair[0] == pair[1]:
                raise ValueError(f"comparisons: {pair[0]} is compared with itself")
            if frozenset(pair) in seen:
                raise ValueError(f"comparisons: {pair[0]} and {pair[1]} are compared twice; keep one of them")
            seen.add(frozenset(pair))
        return self
