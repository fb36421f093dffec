"""JSON schemas with the docstrings that follow the fields of a model as descriptions."""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema


class DescribedSchema(GenerateJsonSchema):
    """For ``schema_generator`` of ``model_json_schema``.

    The same as pydantic's ``use_attribute_docstrings``, which reads the sources of all models whenever they are
    imported, in every step and every dry run.
    """

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        """Return the JSON schema of a model, with the descriptions of its fields."""
        found = super().model_schema(schema)
        descriptions = field_docstrings(schema["cls"])
        for name, field in found.get("properties", {}).items():
            if name in descriptions:
                field["description"] = descriptions[name]
        return found


def field_docstrings(model: type) -> dict[str, str]:
    """Return field -> docstring of a model, for its own fields and those of the models from which it inherits."""
    found: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        if not issubclass(parent, BaseModel) or parent is BaseModel:
            continue
        try:
            source = inspect.getsource(parent)
        except OSError:
            # Made by create_model, which takes descriptions.
            continue
        (definition,) = ast.parse(textwrap.dedent(source)).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in pairwise(definition.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    found[name] = inspect.cleandoc(words)
    return found
