"""The catalogue of engines. One line here adds an engine (docs/extending.md)."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from usertune.core.catalogue import Catalogue
from usertune.inference.engine import EngineOptions

ENGINES = Catalogue(
    "engine",
    {
        "transformers": "usertune.inference.engines.transformers:TransformersEngine",
        "openai": "usertune.inference.engines.openai:OpenAIEngine",
    },
)
DEFAULT_ENGINE = "transformers"


def options_model(name: str) -> type[EngineOptions]:
    """Return the model of an engine's settings; an engine without settings is not imported.

    Raises:
        UserError: there is no such engine.
    """
    model = ENGINES.constant(name, "SETTINGS")
    return cast(type[EngineOptions], getattr(import_module(ENGINES.module(name)), model)) if model else EngineOptions
