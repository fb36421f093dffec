"""How rarely Python looks for garbage: not while large libraries are imported, nor in what they hold later."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_is_frozen = False
# Thresholds of the collector before `collect_rarely`.
_usual: tuple[int, int, int] | None = None


def collect_rarely() -> None:
    """Let the collector run rarely until `large_imports`: imports, tables and planning keep nearly all they make."""
    global _usual
    _usual = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)


@contextmanager
def large_imports() -> Iterator[None]:
    """Import torch and what builds on it.

    Importing them makes half a million objects, and the collector would look through them again and again: an eighth
    of the time. Afterwards the first block of a process exempts them from collection, so that those that follow (the
    Trainer asks for two in each training) look only at what the process itself made.
    """
    global _is_frozen, _usual
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()
        # A second time it would keep what could be collected by then. (`gc.get_freeze_count` counts one by one.)
        if not _is_frozen:
            gc.freeze()
            _is_frozen = True
        if _usual:
            # Tensors in reference cycles must not wait.
            gc.set_threshold(*_usual)
            _usual = None
