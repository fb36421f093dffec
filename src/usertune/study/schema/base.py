"""Base classes for all sections of a study: strict models, and paths that are safe in file names and commands."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from usertune.core.errors import shown


class ConfigModel(BaseModel):
    """A part of the study: immutable, and unknown keys are errors."""

    # Defaults are validated too, so a default 32 and a written 32.0 give the same value.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the sections that a key's annotation allows as its value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from models_in(argument)


def plain_path(value: str) -> str:
    """Return a path that is safe in file names and commands; ValueError if it is not."""
    if set(value) & set("{}<>"):
        raise ValueError(
            f"{shown(value)} contains one of the characters {{ }} < >, which Snakemake uses for placeholders in file "
            "names; rename the folder, or use a symbolic link"
        )
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise ValueError(f"{shown(value)} contains a line break or another control character; rename the folder")
    if value.startswith("-"):
        raise ValueError(f"{shown(value)} begins with '-', which programs read as an option; write ./ before it")
    return value


def _folder(value: str) -> str:
    if value.startswith("~"):
        raise ValueError(f"{shown(value)} begins with '~', which is not expanded here; write the full path")
    return plain_path(value)


PlainPath = Annotated[str, Field(min_length=1), AfterValidator(plain_path)]
Folder = Annotated[str, Field(min_length=1), AfterValidator(_folder)]
# Snakemake puts it into a shell command without quotes.
ImagePath = Annotated[str, Field(pattern=r"^[A-Za-z0-9._/][A-Za-z0-9._/+@=-]*$")]
