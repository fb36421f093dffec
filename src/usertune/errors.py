"""The one exception that means "the user can mend this"."""

from __future__ import annotations


class UserError(Exception):
    """Bad input that a person can mend: shown as its message alone, without a traceback.

    The message names the file (and line), the key or field, the value that was found, and what to do.
    """
