"""What answers samples: the name of an engine, and its settings."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, GetJsonSchemaHandler, model_serializer, model_validator
from pydantic_core import CoreSchema

from usertune.inference.engine import EngineOptions
from usertune.inference.engines.catalogue import DEFAULT_ENGINE, ENGINES, options_model
from usertune.study.schema.base import ConfigModel
from usertune.study.schema.options import check_options

# Names come from the catalogue, so one line there adds an engine.
if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal[tuple(ENGINES)]


class EngineChoice(ConfigModel):
    """An engine and its settings, ``{kind: NAME, ...}``; without settings, its name alone is enough."""

    model_config = ConfigDict(extra="allow")

    kind: EngineName = DEFAULT_ENGINE
    """Name of the engine."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, raw: Any) -> Any:
        return {"kind": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _check_settings(self) -> EngineChoice:
        owner = f"engine {self.kind}"
        check_options(options_model(self.kind), self.settings, owner, word="setting", secret=True)
        return self

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        return {"kind": self.kind, **self.settings} if self.settings else self.kind

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {
            "description": cls.__doc__,
            "anyOf": [
                {"type": "string", "enum": list(ENGINES)},
                {
                    "type": "object",
                    "properties": {"kind": {"type": "string", "enum": list(ENGINES)}},
                    "required": ["kind"],
                },
            ],
        }

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as the study has them."""
        return dict(self.model_extra or {})

    @cached_property
    def options(self) -> EngineOptions:
        """The settings with their defaults."""
        return options_model(self.kind).model_validate(self.settings)

    @property
    def needs_gpu(self) -> bool:
        """Whether prediction jobs need a GPU."""
        return bool(ENGINES.constant(self.kind, "NEEDS_GPU"))

    @property
    def shares_base(self) -> bool:
        """Whether it can answer with several adapters on one loaded base model."""
        return bool(ENGINES.constant(self.kind, "SHARES_BASE", False))
