"""The catalogue of writers. One line here adds a format of `usertune export`."""

from __future__ import annotations

from usertune.core.catalogue import Catalogue

WRITERS = Catalogue(
    "format",
    {
        "llama-factory": "usertune.data.writers.llama_factory:LlamaFactoryWriter",
        "swift": "usertune.data.writers.swift:SwiftWriter",
        "trl": "usertune.data.writers.trl:TrlWriter",
    },
)
