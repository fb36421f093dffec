"""A progress bar for the demo's longer work in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def progress_bar(items: Sequence[T], description: str) -> Iterable[T]:
    """Yield the items, with a progress bar on standard error if that is a terminal."""
    return track(items, description, console=Console(stderr=True), disable=not sys.stderr.isatty())
