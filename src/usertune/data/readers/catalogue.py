"""The catalogue of readers. One line here adds the reader of a new module (docs/extending.md)."""

from __future__ import annotations

from usertune.core.catalogue import Catalogue

READERS = Catalogue("dataset.format", {"messages": "usertune.data.readers.messages:MessagesReader"})
