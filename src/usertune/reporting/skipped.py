"""Bad samples that were skipped (``dataset.on_bad_sample: skip``), for the report: how many, whose, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usertune.core.hashing import digest
from usertune.core.manifest import read_manifest
from usertune.core.users import parse_users

REASONS_SHOWN = 5
LONGEST_REASON = 300


@dataclass(frozen=True)
class Skipped:
    """The samples of one user that were skipped."""

    user: str
    split: str
    kept: int
    count: int
    reasons: tuple[str, ...]


def read_data(folder: Path, splits: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Return (split, manifest of the prepared data) of all users.

    Args:
        folder: the folder of the manifests.
        splits: the users of each split, in the short notation.

    Raises:
        UserError: a manifest is missing or damaged.
    """
    found = [(split, user) for split, users in splits.items() for user in (parse_users(users) if users else [])]
    return [(split, read_manifest(folder / f"user_{user}.manifest.json")) for split, user in found]


def skipped_digest(manifest: Mapping[str, Any]) -> str:
    """Return the digest of what the report sees of a user's data: how many samples there are, and which are missing."""
    return digest([manifest["samples"], manifest["skipped_samples"]])


def skipped(data: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Skipped]:
    """Yield the skipped samples of every user who has any."""
    for split, manifest in data:
        if problems := manifest["skipped_samples"]:
            reasons = [_reason(problem) for problem in problems[:REASONS_SHOWN]]
            if len(problems) > REASONS_SHOWN:
                reasons.append(f"and {len(problems) - REASONS_SHOWN:,} more; the user's manifest lists all")
            yield Skipped(manifest["user"], split, manifest["samples"], manifest["skipped"], tuple(reasons))


def skipped_note(data: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return a sentence with the number of skipped samples of the study."""
    kept = sum(manifest["samples"] for _, manifest in data)
    count = sum(manifest["skipped"] for _, manifest in data)
    if not count:
        return f"No sample was skipped: all {kept:,} samples of {len(data):,} users passed the checks."
    users = sum(manifest["skipped"] > 0 for _, manifest in data)
    return (
        f"{count:,} of {kept + count:,} samples, of {users:,} of {len(data):,} users, did not pass the checks and were "
        "skipped. Nothing was trained or scored on them."
    )


def _reason(problem: Mapping[str, Any]) -> str:
    text = f"line {problem['line']}: {problem['field']}: {problem['problem']}"
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"
