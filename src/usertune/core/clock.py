"""The time as results record it."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> str:
    """Return the time in UTC, to the second, as in ``2026-11-27T18:03:05+00:00``; such texts sort by time."""
    return datetime.now(UTC).isoformat(timespec="seconds")
