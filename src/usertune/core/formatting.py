"""Formats of numbers and texts for people: percentages, points, intervals, durations, text from any source.

Only these functions round numbers; tables for programs (CSV) keep every digit.
"""

from __future__ import annotations

import math

NOT_AVAILABLE = "n/a"
MINUS = "\N{MINUS SIGN}"
# Smaller p values are written as "< 0.0001".
SMALLEST_P = 0.0001


def is_missing(value: float | None) -> bool:
    """Whether a number is missing: None, or NaN, which pandas reads from an empty field."""
    return value is None or math.isnan(value)


def number(value: float | None, digits: int = 1, scale: float = 1) -> str:
    """Return ``scale`` times a number, with ``digits`` decimals: ``1,234.5``."""
    if value is None or math.isnan(value):
        return NOT_AVAILABLE
    text = f"{scale * value:,.{digits}f}".replace("-", MINUS)
    return text if text.strip(f"{MINUS}0.,") else text.removeprefix(MINUS)


def signed(value: float | None, digits: int = 1, scale: float = 1) -> str:
    """Return a number as `number` does, with a sign unless it is zero: ``+8.2``."""
    text = number(value, digits, scale)
    return text if text == NOT_AVAILABLE or not text.strip(f"{MINUS}0.,") or text.startswith(MINUS) else f"+{text}"


def percent(fraction: float | None) -> str:
    """Return a fraction as a percentage with one decimal and no percent sign: 0.342 gives ``34.2``."""
    return number(fraction, scale=100)


def interval(low: str, high: str) -> str:
    """Return two formatted numbers as ``[30.1, 38.3]``; an empty text if one is not available."""
    return "" if NOT_AVAILABLE in (low, high) else f"[{low}, {high}]"


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units: ``2 h 15 min``, ``3 min 5 s``, ``4.2 s``."""
    if seconds is None:
        return NOT_AVAILABLE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def count(number: float | None) -> str:
    """Return a large count in three significant digits: ``21.8 M``, ``8.19 B``."""
    if number is None:
        return NOT_AVAILABLE
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            digits = max(0, 2 - int(math.log10(number / size)))
            return f"{number / size:.{digits}f} {unit}"
    return f"{number:.0f}"


def byte_size(size: int) -> str:
    """Return a number of bytes, in a unit of which there is at least one: ``16.4 GiB``, ``83.2 KiB``, ``0``."""
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} B" if size else "0"


def printable(text: str, keep: str = "") -> str:
    """Return a text in one line, with control characters escaped, except those in ``keep``."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def no_interval(users: int) -> str:
    """Return why an estimate over ``users`` users has no interval."""
    return f"{NOT_AVAILABLE}: needs 3 users" if users < 3 else f"{NOT_AVAILABLE}: users do not vary"


def p_text(value: float | None) -> str:
    """Return a p value as people read it: ``0.0457``, ``1``, ``< 0.0001``."""
    if value is None or is_missing(value):
        return NOT_AVAILABLE
    return f"< {SMALLEST_P:g}" if value < SMALLEST_P else f"{round(value, 4):.3g}"


def p_equals(value: float) -> str:
    """Return what a p value is: ``p = 0.0457``, ``p < 0.0001``."""
    text = p_text(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"
