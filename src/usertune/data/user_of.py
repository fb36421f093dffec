"""Which user a sample of a dataset without users of its own belongs to, and ids for names that no path could hold."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError, shown
from usertune.core.hashing import digest
from usertune.core.users import parse_users
from usertune.data.reader import BadSampleError
from usertune.data.turns import checked_text

ALL, FOLDER, FILE = "all", "folder", "file"
LONGEST_VALUE = 1000
# A mapped id keeps so much of the name, and ends in so many digits of its digest.
KEPT, DIGITS = 40, 8
_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")


def user_id(value: Any) -> str:
    """Return the user id for a value of a dataset.

    Whole numbers and names that `usertune.core.users` accepts stay as they are. Any other name, such as
    ``Google Chrome``, ``微信`` or ``../x``, is mapped to its safe characters and a digest, ``Google_Chrome-0123abcd``,
    so that two names never share an id.

    Raises:
        ValueError: the value is no text and no whole number, is empty, or has more than `LONGEST_VALUE` characters.
    """
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        # A column of whole numbers with gaps is one of floating-point numbers in Parquet.
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{shown(value)} is not a user: a name or a whole number is needed")
    if isinstance(value, int):
        if not 0 <= value < 10**18:
            raise ValueError(f"{shown(value)} is not a user: a number has at most 18 digits and no sign")
        return str(value)
    if not value.strip() or len(value) > LONGEST_VALUE:
        raise ValueError(f"{shown(value)} is not a user: a name has 1 to {LONGEST_VALUE} characters")
    try:
        if parse_users(value) == [value]:
            return value
    except UserError:
        pass
    kept = _UNSAFE.sub("_", value).strip("_")[:KEPT]
    return f"{kept or 'user'}-{digest(value)[:DIGITS]}"


class UserOf:
    """The rule by which samples get a user.

    Args:
        rule: ``all`` (one user of this name), ``folder`` (the first folder in the path of the first image), ``file``
            (the name of the file with the sample, without its ending), or the key that holds the user.
    """

    def __init__(self, rule: str) -> None:
        self.rule = rule

    @property
    def key(self) -> str | None:
        """The key of a sample that names its user; None if another part decides."""
        return None if self.rule in (ALL, FOLDER, FILE) else self.rule

    def __call__(self, entry: Mapping[str, Any], file: Path, images: Iterable[str]) -> str:
        """Return the user of a sample.

        Args:
            entry: the sample.
            file: the file that holds it.
            images: the paths of its images, as they are in the data.

        Raises:
            BadSampleError: the sample does not name its user.
        """
        if self.rule == ALL:
            return ALL
        value = self._value(entry, file, images)
        if isinstance(value, str):
            checked_text(value, self.rule)
        try:
            return user_id(value)
        except ValueError as error:
            raise BadSampleError(self.rule, str(error)) from None

    def _value(self, entry: Mapping[str, Any], file: Path, images: Iterable[str]) -> Any:
        if self.rule == FILE:
            return file.stem
        if self.rule == FOLDER:
            first = next(iter(images), "").lstrip("/")
            if "/" not in first:
                raise BadSampleError(
                    "image", f"{shown(first)} names no folder, which is the user (options.user: folder)"
                )
            return first.split("/")[0]
        if self.rule not in entry:
            raise BadSampleError(self.rule, "this key is missing, and it names the user (options.user)")
        return entry[self.rule]
