"""Settings whose keys belong to a plug-in: those of a format of data, and those of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from usertune.study.files import KeyPath


def check_options(
    model: type[BaseModel],
    given: Mapping[str, Any],
    owner: str,
    *,
    word: str,
    under: KeyPath = (),
    secret: bool = False,
) -> None:
    """Check settings against the model of their plug-in.

    Args:
        model: the keys that the plug-in knows.
        given: the settings as the study has them.
        owner: the plug-in in messages, such as "format qwen".
        word: what a key is called in messages.
        under: path of the settings in the section that is validated.
        secret: whether a wrong value is kept out of the message, because it may be a key to a service.

    Raises:
        ValidationError: unknown, missing and wrong settings, each at its key.
    """
    try:
        model.model_validate(given)
    except ValidationError as error:
        known = ", ".join(model.model_fields) or "none"
        problems = [
            InitErrorDetails(
                type=PydanticCustomError("value_error", "{error}", {"error": _text(problem, owner, word, known)}),
                loc=(*under, *problem["loc"]),
                input=None if secret else problem["input"],
            )
            for problem in error.errors()
        ]
        raise ValidationError.from_exception_data(model.__name__, problems) from None


def _text(problem: ErrorDetails, owner: str, word: str, known: str) -> str:
    if problem["type"] == "extra_forbidden":
        return f"unknown {word}; those of the {owner} are: {known}"
    if problem["type"] == "missing":
        return f"the {owner} needs this {word}"
    return problem["msg"].removeprefix("Value error, ")
