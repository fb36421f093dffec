"""The exception that means "the user can mend this", and the one that means "stop now"."""

from __future__ import annotations

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


class UserError(Exception):
    """Bad input that a person can mend: shown as its message alone, without a traceback.

    The message names the file (and line), the key or field, the value that was found, and what to do.
    """


class LackOfMemoryError(UserError):
    """Memory ran out, or seems to have: another attempt may help that takes less."""


class FinalError(UserError):
    """Another attempt with the same settings ends in the same way, so none is made."""


class StopRequested(KeyboardInterrupt):
    """A stop signal came: the process is to leave, keeping what was finished.

    Args:
        signal: number of the signal.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def shown(value: object) -> str:
    """Return a value as it stands in a message: like ``repr``, but short, however long or deeply nested it is."""
    return _SHORT.repr(value)
