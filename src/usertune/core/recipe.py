"""Recipes: typed, unchangeable settings of a step; the same model where it is planned and where the step reads it."""

from __future__ import annotations

import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from usertune.core.errors import UserError
from usertune.core.hashing import canonical_json


class Settings(BaseModel):
    """A part of a recipe: no other keys than its own, and unchangeable."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def as_json(self) -> dict[str, Any]:
        """Return the keys that were set, for manifests and digests; a key that was left out stays out."""
        return self.model_dump(mode="json", exclude_unset=True)

    def text(self) -> str:
        """Return the canonical JSON of `as_json`, from which `parse` makes an equal model."""
        return canonical_json(self.as_json())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the settings that a JSON text describes.

        Raises:
            UserError: the text is no JSON object, or a key is missing, unknown or has a wrong value.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"this is not JSON ({error}): {text[:60]!r}") from None
        if not isinstance(values, dict):
            raise UserError(f"a JSON object is needed; found {text[:60]!r}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError("; ".join(_in_words(problem) for problem in error.errors(include_url=False))) from None


class Recipe(Settings):
    """The part of a study that one step depends on."""

    step: str
    """The step that the recipe is for."""
    upstream: dict[str, str] = {}
    """Digests of the recipes of the steps before; no part of the fingerprint."""
    provenance: dict[str, Any] | None = None
    """Code and packages that the result must be made with, where the study asks for that."""
    rebuild: str | None = None
    """Set where a damaged result is made again."""


def _in_words(problem: Any) -> str:
    key = ".".join(map(str, problem["loc"]))
    message = str(problem["msg"]).removeprefix("Value error, ")
    match problem["type"]:
        case "missing":
            return f"{key}: this key is missing"
        case "extra_forbidden":
            return f"{key}: no such key; remove it"
    return f"{key}: {message}; found {str(problem['input'])[:60]!r}"
