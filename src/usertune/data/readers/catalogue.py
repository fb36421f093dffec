"""The catalogue of readers. One line here adds a reader (docs/extending.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from usertune.core.catalogue import Catalogue
from usertune.core.errors import UserError
from usertune.data.reader import Reader

READERS = Catalogue(
    "dataset.format",
    {
        "messages": "usertune.data.readers.messages:MessagesReader",
        "fingertip": "usertune.data.readers.fingertip:FingerTipReader",
        "qwen": "usertune.data.readers.qwen:QwenReader",
        "swift": "usertune.data.readers.swift:SwiftReader",
        "aitw": "usertune.data.readers.aitw:AitwReader",
        "screenspot": "usertune.data.readers.screenspot:ScreenSpotReader",
        "androidcontrol": "usertune.data.readers.androidcontrol:AndroidControlReader",
        "parquet": "usertune.data.readers.parquet:ParquetReader",
    },
)


def get_reader(name: str, root: Path, options: Mapping[str, Any] | None = None) -> Reader:
    """Return the reader ``name`` for the raw data in the folder ``root``.

    Args:
        name: name of the format.
        root: folder of the raw data.
        options: ``dataset.options``; None for the defaults.

    Raises:
        UserError: there is no such reader (the message lists the existing ones), or the options are not valid.
    """
    reader = READERS.load(name)
    try:
        return cast(Reader, reader(root, reader.Options.model_validate(options or {})))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise UserError(f"dataset.options of the format {name}: {problems}") from None
