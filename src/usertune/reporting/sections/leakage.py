"""What splits and folds have in common, in one paragraph for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from usertune.core import formatting
from usertune.data.leakage import ALL_FOLDS, OTHER_FOLDS, POOLED_FOLDS

# Split -> what its users are called.
USERS = {"train": "training"}
MEANING = (
    "A model can answer from memory what it has seen in training, so the scores of such samples may say little about "
    "new screens."
)


def leakage_note(manifest: Mapping[str, Any], file: str) -> str:
    """Return what splits and folds have in common and what it means; empty if they have nothing in common.

    Args:
        manifest: the manifest of the step leakage, see `usertune.data.leakage.Overlap`.
        file: its path, as people find it.
    """
    # The last split, test, matters most, and of the others train.
    order = list(dict.fromkeys(overlap["later"] for overlap in manifest["overlaps"]))
    overlaps = sorted(manifest["overlaps"], key=lambda overlap: -order.index(overlap["later"]))
    # The first one of the folds is the sum over all users; those of single users follow.
    folds = [row for row in manifest.get("folds", []) if row["later"] == ALL_FOLDS]
    sentences = [sentence for overlap in (*overlaps, *folds) if (sentence := _sentence(overlap))]
    if not sentences:
        return ""
    within = manifest["recipe"].get("within")
    near = any(overlap["near_identical_screenshots"] for overlap in (*overlaps, *folds))
    how = f" (nearly identical: at most {within} of 256 bits of a perceptual hash differ)" if near else ""
    return f"{' '.join(sentences)} {MEANING} Counts and examples{how}: {file}."


def _sentence(overlap: Mapping[str, Any]) -> str:
    if overlap["earlier"] in (OTHER_FOLDS, POOLED_FOLDS):
        user = "the same user" if overlap["earlier"] == OTHER_FOLDS else "a test user"
        later, whose = "test", (f"another fold of {user} also has", f"of another fold of {user}")
    else:
        earlier, later = (USERS.get(overlap[key], overlap[key]) for key in ("earlier", "later"))
        whose = (f"a {earlier} user also has", f"of a {earlier} user")
    parts = []
    if affected := overlap["affected"]:
        near = overlap["samples_with_near_identical_screenshot"]
        which = "" if not near else " (all nearly identical)" if near == affected else f" ({near:,} nearly identical)"
        verb = "shows" if affected == 1 else "show"
        parts.append(f"{_of(affected, overlap)} {verb} a screenshot that {whose[0]}{which}")
    if pairs := overlap["samples_with_identical_pair"]:
        verb = "has" if pairs == 1 else "have"
        repeated = overlap["samples_repeated"]
        which = f" ({repeated:,} with the same screenshot)" if repeated else " (on other screenshots)"
        parts.append(f"{_of(pairs, overlap)} {verb} question and answer {whose[1]}{which}")
    if not parts:
        return ""
    first = f"Of {overlap['samples']:,} {later} samples, "
    return f"{first}{', and '.join(parts)}."


def _of(count: int, overlap: Mapping[str, Any]) -> str:
    return f"{count:,} ({formatting.percent(count / overlap['samples'])} %)"
