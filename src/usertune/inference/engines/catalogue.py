"""The catalogue of engines. One line here adds an engine (docs/extending.md)."""

from __future__ import annotations

from usertune.core.catalogue import Catalogue

ENGINES = Catalogue(
    "engine",
    {
        "transformers": "usertune.inference.engines.transformers:TransformersEngine",
    },
)
DEFAULT_ENGINE = "transformers"
