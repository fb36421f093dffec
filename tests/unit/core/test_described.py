"""Descriptions in JSON schemas: those that pydantic itself would take from the docstrings."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, create_model

from usertune.core.described import DescribedSchema, field_docstrings


class Part(BaseModel):
    """A part, of which pydantic reads no docstring."""

    size: int = 3
    """Size of the part,
    in pixels."""
    hidden: int = 4


class Study(BaseModel):
    """A model of which pydantic reads the docstrings itself."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    part: Part = Part()
    """The part,
        with an indented line."""
    "Not a description: a second text."
    parts: dict[str, Part] = {}
    """Name -> part."""
    name: str


class Longer(Study):
    """Inherits fields, and describes one of them."""

    name: str = "a"
    """Another text."""


@pytest.mark.parametrize("model", [Study, Longer])
def test_descriptions_are_those_of_pydantic(model: type[BaseModel]) -> None:
    found = {name: field.description for name, field in model.model_fields.items() if field.description}
    assert field_docstrings(model) == found
    assert found["parts"] == "Name -> part."


def test_a_schema_has_the_descriptions_of_nested_models_too() -> None:
    class Whole(BaseModel):
        """Has a part."""

        part: Part = Part()
        """The part."""

    schema = Whole.model_json_schema(schema_generator=DescribedSchema)
    assert schema["properties"]["part"]["description"] == "The part."
    part: dict[str, Any] = schema["$defs"]["Part"]
    assert part["properties"]["size"]["description"] == "Size of the part,\nin pixels."
    assert "description" not in part["properties"]["hidden"]


def test_a_model_made_by_a_call_has_the_descriptions_of_its_parent() -> None:
    made = create_model("Made", __base__=Part, more=(int, 1))
    fields = made.model_json_schema(schema_generator=DescribedSchema)["properties"]
    assert fields["size"]["description"] == "Size of the part,\nin pixels."
    assert "description" not in fields["more"]
