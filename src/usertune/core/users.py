"""User ids and the short notation for many of them: ``1-3,7,alice``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from usertune.core.errors import UserError, shown
from usertune.core.hashing import digest

MAX_USERS = 1_000_000
MAX_LABEL_LENGTH = 80
MAX_NESTED_LISTS = 20
# Some file systems drop a dot at the end of a file name.
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(?<!\.)")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_RANGE = re.compile(r"([0-9]+)\s*-\s*([0-9]+)")


def parse_users(value: Any) -> list[str]:
    """Expand user notation into user ids, in the order written.

    Args:
        value: an integer, text such as ``"1-3,7,alice"`` (both ends of a range included), or a list of these. White
            space around a part is ignored.

    Returns:
        The ids as text; numbers are written without leading zeros.

    Raises:
        UserError: a part is empty, malformed, a backwards range or an unsafe name, or a user is listed twice.
    """
    users: list[str] = []
    for part in _parts(value):
        users.extend(_expand(part))
        if len(users) > MAX_USERS:
            raise UserError(f"more than {MAX_USERS:,} users in {shown(value)}; is a range mistyped?")
    seen: set[str] = set()
    for user in users:
        if user in seen:
            raise UserError(f"user {user} is listed twice in {shown(value)}")
        seen.add(user)
    return users


def format_users(users: Sequence[str]) -> str:
    """Return users in the short notation, with consecutive numbers joined: ``1-3,7,alice``.

    ``parse_users(format_users(users)) == list(users)`` for any list of distinct valid ids.
    """
    parts: list[str] = []
    start = 0
    for index in range(1, len(users) + 1):
        if index < len(users) and _follows(users[index - 1], users[index]):
            continue
        run = users[start:index]
        parts.append(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}")
        start = index
    return ",".join(parts)


def batch_label(users: Sequence[str]) -> str:
    """Return a label for a batch of users that is safe in file names: its notation, or a short form with a digest."""
    label = format_users(users)
    if len(label) <= MAX_LABEL_LENGTH:
        return label
    return f"{users[0][:24]}_to_{users[-1][:24]}_{digest(list(users))[:12]}"


def sort_key(user: str) -> tuple[int, int, str]:
    """Return the sort key of a user: numbers come first, by value, then names."""
    return (0, int(user), "") if _NUMBER.fullmatch(user) else (1, 0, user)


def _parts(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, list | tuple):
        if depth == MAX_NESTED_LISTS:
            raise UserError(f"lists of users are nested more than {MAX_NESTED_LISTS} deep; write one list")
        for item in value:
            yield from _parts(item, depth + 1)
    elif isinstance(value, str):
        yield from (part.strip() for part in value.split(","))
    elif isinstance(value, int) and not isinstance(value, bool):
        # Python cannot convert an integer with thousands of digits to text.
        if value.bit_length() > 64:
            raise UserError("a user number has at most 18 digits")
        yield str(value)
    else:
        quotes = " (a user id null needs quotes)" if value is None else ""
        raise UserError(
            f"{shown(value)} does not name users; write numbers, ranges or names such as 1-3,7,alice{quotes}"
        )


def _expand(part: str) -> list[str]:
    bounds = _RANGE.fullmatch(part)
    if bounds:
        first, last = (_number(text, part) for text in bounds.groups())
        if last < first:
            raise UserError(f"the range {shown(part)} counts backwards; write {last}-{first}")
        if last - first >= MAX_USERS:
            raise UserError(f"the range {shown(part)} holds more than {MAX_USERS:,} users; is it mistyped?")
        return [str(number) for number in range(first, last + 1)]
    if part.isascii() and part.isdigit():
        return [str(_number(part, part))]
    if not _ID.fullmatch(part):
        raise UserError(
            f"{shown(part)} is not a user id; ids are numbers, or names of at most 64 letters, digits, '_', '-' "
            "and '.' that begin with a letter, a digit or '_' and do not end with '.'"
        )
    return [part]


def _number(text: str, part: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise UserError(
            f"{shown(part)}: write user numbers without leading zeros, as 7 (and user_7.jsonl), with at most 18 digits"
        )
    return int(text)


def _follows(previous: str, user: str) -> bool:
    numbers = _NUMBER.fullmatch(previous) and _NUMBER.fullmatch(user)
    return bool(numbers) and int(user) == int(previous) + 1
