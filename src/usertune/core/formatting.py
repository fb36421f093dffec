"""How numbers are shown to people: percentages, points, intervals, durations.

Tables for programs (CSV) keep every digit; only what passes through here is rounded.
"""

from __future__ import annotations

import math

NOT_AVAILABLE = "n/a"
MINUS = "\N{MINUS SIGN}"


def is_missing(value: float | None) -> bool:
    """Whether a number is absent: None, or the NaN that pandas reads from an empty field."""
    return value is None or math.isnan(value)


def percent(fraction: float | None) -> str:
    """Return a fraction as a percentage with one decimal and without the sign: 0.342 gives ``34.2``."""
    return NOT_AVAILABLE if fraction is None or math.isnan(fraction) else _fixed(100 * fraction)


def points(difference: float | None) -> str:
    """Return a difference of fractions in percentage points, always with its sign: ``+8.2``."""
    if difference is None or math.isnan(difference):
        return NOT_AVAILABLE
    text = _fixed(100 * difference)
    return text if text.startswith(MINUS) or text == "0.0" else f"+{text}"


def distance(value: float | None) -> str:
    """Return a distance in the 0-1000 space with one decimal."""
    return NOT_AVAILABLE if value is None or math.isnan(value) else _fixed(value)


def percent_interval(low: float | None, high: float | None) -> str:
    """Return ``[30.1, 38.3]``, or an empty text where there is no interval."""
    return "" if is_missing(low) or is_missing(high) else f"[{percent(low)}, {percent(high)}]"


def points_interval(low: float | None, high: float | None) -> str:
    """Return ``[+4.0, +12.4]``, or an empty text where there is no interval."""
    return "" if is_missing(low) or is_missing(high) else f"[{points(low)}, {points(high)}]"


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


def no_interval(users: int) -> str:
    """Return, for the reader, why an estimate over so many users has no interval."""
    return f"{NOT_AVAILABLE}: needs 2 users" if users < 2 else f"{NOT_AVAILABLE}: users do not vary"


def _fixed(value: float) -> str:
    text = f"{value:,.1f}".replace("-", MINUS)
    return "0.0" if text == f"{MINUS}0.0" else text
