"""The catalogue of readers. One line here adds a reader (docs/extending.md)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from usertune.core.catalogue import Catalogue
from usertune.data.reader import Reader

READERS = Catalogue(
    "dataset.format",
    {
        "messages": "usertune.data.readers.messages:MessagesReader",
    },
)


def get_reader(name: str, root: Path) -> Reader:
    """Return the reader ``name`` for the raw data in the folder ``root``.

    Raises:
        UserError: there is no such reader; the message lists the existing ones.
    """
    return cast(Reader, READERS.load(name)(root))
