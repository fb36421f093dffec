"""Exceptions for problems that the user can fix, and for stop signals."""

from __future__ import annotations

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


class UserError(Exception):
    """Bad input that a person can fix; only the message is shown, without a traceback.

    The message names the file (and line), the key or field, the value that was found, and what to do.
    """


class LackOfMemoryError(UserError):
    """Memory ran out, or probably did; an attempt that uses less may succeed."""


class FinalError(UserError):
    """Another attempt with the same settings would fail in the same way, so there is no retry."""


class StopRequested(KeyboardInterrupt):
    """A stop signal arrived: the process must exit and keep finished work.

    Args:
        signal: signal number.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def shown(value: object) -> str:
    """Return a value for a message: like ``repr``, but short even for long or deeply nested values."""
    return _SHORT.repr(value)
