"""The tables of docs/data.md: the formats, and the options of each."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from usertune.core.described import DescribedSchema
from usertune.core.pages import with_part
from usertune.data.readers.catalogue import READERS


def with_formats(page: str) -> str:
    """Return a page with its two generated parts, formats and options, up to date.

    Raises:
        UserError: a line that marks the beginning or end of a part is missing.
    """
    return with_part(with_part(page, "formats", _formats()), "options", _options())


def _formats() -> Iterator[str]:
    """Yield the table of formats: name, first sentence of the reader's module, and default frame."""
    yield "| `dataset.format` | data | `dataset.frame` |"
    yield "|---|---|---|"
    for name in READERS:
        text = inspect.getdoc(importlib.import_module(READERS.module(name))) or ""
        words = text.partition("\n\n")[0].removeprefix("Reader for ").rstrip(".")
        frame = READERS.constant(name, "FRAME")
        yield f"| `{name}` | {_cell(words)} | {f'`{frame}`' if frame else 'must be set'} |"
    yield ""


def _options() -> Iterator[str]:
    """Yield the table of options. An option that means the same in several formats is one row."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for name in READERS:
        described = READERS.load(name).Options.model_json_schema(schema_generator=DescribedSchema)
        for option, schema in described.get("properties", {}).items():
            row = option, ", ".join(map(_value, _values(schema))), _cell(schema.get("description", ""))
            rows.setdefault(row, []).append(f"`{name}`")
    yield "| option | formats | values, the default first | meaning |"
    yield "|---|---|---|---|"
    for (option, values, meaning), names in rows.items():
        yield f"| `{option}` | {', '.join(names)} | {values} | {meaning} |"
    yield ""


def _values(schema: Mapping[str, Any]) -> list[Any]:
    """Return the default of an option, and the other values if these are few."""
    default = schema.get("default")
    named = [value for one in (schema, *schema.get("anyOf", [])) for value in one.get("enum", [])]
    if schema.get("type") == "boolean":
        named = [False, True]
    return [default, *(value for value in named if value != default)]


def _value(value: Any) -> str:
    plain = isinstance(value, str) and re.fullmatch(r"\w+", value)
    return f"`{value if plain else json.dumps(value)}`"


def _cell(text: str) -> str:
    """Return a text of a docstring on one line, for a cell of a table."""
    return " ".join(text.replace("``", "`").replace("|", r"\|").split())
