"""Importing large libraries without looking for garbage in between, or in what they hold later."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Python's default, whatever the program set: tensors in reference cycles must not wait for rare collections.
THRESHOLDS = (700, 10, 10)

_is_frozen = False


@contextmanager
def large_imports() -> Iterator[None]:
    """Import torch and what builds on it.

    Importing them makes half a million objects, and the collector would look through them again and again: an eighth
    of the time. Afterwards the first block of a process exempts them from collection, so that those that follow (the
    Trainer asks for two in each training) look only at what the process itself made.
    """
    global _is_frozen
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
            gc.set_threshold(*THRESHOLDS)
            _is_frozen = True
