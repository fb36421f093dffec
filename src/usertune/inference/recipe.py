"""The recipe of predictions."""

from __future__ import annotations

from typing import Any, Literal

from usertune.core.recipe import Recipe
from usertune.inference.engines.catalogue import DEFAULT_ENGINE
from usertune.models.recipe import Pixels


class AnswersRecipe(Recipe):
    """Which answers, generated elsewhere, are the predictions."""

    answers: str
    """Path of the files as written in the study; their content is an input."""


class PredictRecipe(Recipe):
    """Settings of generation."""

    max_new_tokens: int
    """Maximum length of an answer, in tokens."""
    pixels: Pixels = Pixels()
    dtype: Literal["bfloat16", "float32"]
    thinking: bool | None = None
    engine: str = DEFAULT_ENGINE
    """Name of the engine, see `usertune.inference.engines.catalogue`."""
    engine_settings: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
    """Settings of the engine that decide what an answer is."""
