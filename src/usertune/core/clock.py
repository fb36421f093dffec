"""The time format of results."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> str:
    """Return the current UTC time in seconds, as in ``2026-11-27T18:03:05+00:00``; these texts sort by time."""
    return datetime.now(UTC).isoformat(timespec="seconds")
