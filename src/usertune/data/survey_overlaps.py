"""What splits and folds have in common, for the survey: from prepared samples, or from the bytes of raw images."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from usertune.core.hashing import digest_file
from usertune.data.images import BadImageError, resolve_inside
from usertune.data.leakage import Overlap, Seen, fold_overlaps, overlaps
from usertune.data.measure_leakage import COLUMNS
from usertune.data.perceptual_hash import HashStore
from usertune.data.recipe import LeakageRecipe
from usertune.data.survey import UserCounts

WITHIN: int = LeakageRecipe.model_fields["within"].default
# What the bytes of raw images alone do not show; None in the rows.
OF_PREPARED = (
    "near_identical_screenshots",
    "samples_with_near_identical_screenshot",
    "identical_pairs",
    "samples_with_identical_pair",
    "samples_repeated",
)
Row = dict[str, Any]


def rows_of_prepared(users: Sequence[UserCounts], store: HashStore) -> tuple[list[Row], int]:
    """Compare the splits as the step leakage does, but decode no image.

    Args:
        users: the users, in the order of their splits.
        store: the perceptual hashes.

    Returns:
        One row for each pair of splits with the columns of `usertune.data.leakage.Overlap`, then those of the folds of
        test users, if any; and the number of different screenshots without a stored hash, which are compared by their
        bytes alone.
    """
    hashes: dict[str, str | None] = {}
    missing: set[str] = set()
    for user in users:
        stored = store.read(user.user)
        for image in {image for sample in user.seen for image in sample.images}:
            if image in stored:
                hashes[image] = stored[image]
            else:
                missing.add(image)
    found = overlaps(_groups(users), hashes, WITHIN)
    if cut := [user for user in users if user.fold_of]:
        samples, folds = {user.user: user.seen for user in cut}, {user.user: user.fold_of for user in cut}
        found += fold_overlaps(samples, folds, hashes, WITHIN)
    return [_row(overlap) for overlap in found], len(missing - hashes.keys())


def rows_of_raw(users: Sequence[UserCounts], root: Path) -> list[Row]:
    """Compare the screenshots of the splits by their bytes.

    Only files of a size that occurs in several splits are read. Images that cannot be read are left out.

    Args:
        users: the users, in the order of their splits.
        root: folder of the raw data.

    Returns:
        One row for each pair of splits; what only prepared samples show is None.
    """
    groups = _groups(users)
    sizes: dict[str, int] = {}
    splits_of: dict[int, set[str]] = {}
    for split, samples in groups.items():
        for path in {path for sample in samples for path in sample.paths}:
            if (size := _size(root, path)) is not None:
                sizes[path] = size
                splits_of.setdefault(size, set()).add(split)
    # A path stands for its bytes where no other split has a file of this size. No digest has a slash.
    digests = {path: f"/{path}" for path, size in sizes.items() if len(splits_of[size]) == 1}
    for path in sizes.keys() - digests.keys():
        with suppress(OSError):
            digests[path] = digest_file(root / path)
    identified = {split: [_identified(sample, digests) for sample in samples] for split, samples in groups.items()}
    return [{**_row(overlap), **dict.fromkeys(OF_PREPARED)} for overlap in overlaps(identified, {}, 0)]


def _groups(users: Sequence[UserCounts]) -> dict[str, list[Seen]]:
    groups: dict[str, list[Seen]] = {}
    for user in users:
        groups.setdefault(user.split, []).extend(user.seen)
    return groups


def _row(overlap: Overlap) -> Row:
    values = asdict(overlap)
    return {column: values[column] for column in COLUMNS}


def _identified(sample: Seen, digests: Mapping[str, str]) -> Seen:
    known = [path for path in sample.paths if path in digests]
    return sample._replace(images=tuple(digests[path] for path in known), paths=tuple(known))


def _size(root: Path, path: str) -> int | None:
    """Return the size of a file in bytes; None without a regular file that the path may name."""
    with suppress(BadImageError, OSError, ValueError):
        status = resolve_inside(root, path).stat()
        if stat.S_ISREG(status.st_mode):
            return status.st_size
    return None
