"""Recipes: typed, immutable settings of a step. The planner and the step use the same model."""

from __future__ import annotations

import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from usertune.core.errors import UserError
from usertune.core.hashing import canonical_json


class Settings(BaseModel):
    """A part of a recipe: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def as_json(self) -> dict[str, Any]:
        """Return the keys that were set, for manifests and digests; defaults are left out."""
        return self.model_dump(mode="json", exclude_unset=True)

    def text(self) -> str:
        """Return the canonical JSON of `as_json`; `parse` turns it into an equal model."""
        return canonical_json(self.as_json())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the settings of a JSON text.

        Raises:
            UserError: the text is not a JSON object, or a key is missing, unknown or has an invalid value.
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
    """Name of the step."""
    upstream: dict[str, str] = {}
    """Digests of the recipes of earlier steps; not part of the fingerprint."""
    provenance: dict[str, Any] | None = None
    """Code and packages that must make the result, if the study sets ``rerun.on_code_change``."""
    rebuild: str | None = None
    """Token that makes Snakemake run the job again for a damaged result."""


def _in_words(problem: Any) -> str:
    key = ".".join(map(str, problem["loc"]))
    message = str(problem["msg"]).removeprefix("Value error, ")
    match problem["type"]:
        case "missing":
            return f"{key}: this key is missing"
        case "extra_forbidden":
            return f"{key}: no such key; remove it"
    return f"{key}: {message}; found {str(problem['input'])[:60]!r}"
