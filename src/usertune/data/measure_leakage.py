"""The step ``leakage``: compares the prepared samples of the splits, and writes what they have in common."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.core.hashing import digest_bytes
from usertune.core.manifest import step_manifest, write_result
from usertune.core.step_names import LEAKAGE
from usertune.core.users import parse_users
from usertune.data.images import BadImageError, load_image
from usertune.data.leakage import Overlap, Seen, overlaps, seen
from usertune.data.perceptual_hash import HashStore, perceptual_hash
from usertune.data.recipe import LeakageRecipe
from usertune.data.samples import Sample, read_user
from usertune.runtime.provenance import current_provenance

logger = logging.getLogger(__name__)

COLUMNS = tuple(column.name for column in fields(Overlap) if column.name != "examples")
SAVE_EVERY = 200
SPLIT_ORDER = ("train", "validation", "test")


def measure_leakage(recipe: LeakageRecipe, manifests: Sequence[Path], root: Path, store: Path, out: Path) -> None:
    """Compare the prepared samples of all pairs of splits.

    Perceptual hashes come from the store, where the prepare step puts them; for images that it lacks (prepared by an
    older release), the images are decoded once and their hashes stored.

    Args:
        recipe: the users of each split, and how screenshots are compared.
        manifests: manifests of all users' prepared samples.
        root: folder of the raw data, to which image paths are relative.
        store: folder of `HashStore`.
        out: the manifest to write, with the overlaps (`usertune.data.leakage.Overlap`) under ``overlaps``. The table
            next to it, with the suffix ``.csv``, has one row for each pair of splits.

    Raises:
        UserError: prepared samples are missing or damaged, or their users are not those of the recipe.
    """
    split_of = {user: split for split, users in recipe.splits.items() if users for user in parse_users(users)}
    # Recipes are canonical JSON, whose keys are sorted.
    order = dict.fromkeys((*SPLIT_ORDER, *recipe.splits))
    groups: dict[str, list[Seen]] = {split: [] for split in order if recipe.splits.get(split)}
    inputs: dict[str, dict[str, str]] = {split: {} for split in recipe.splits}
    hashes: dict[str, str | None] = {}
    unreadable = 0
    for path in manifests:
        prepared, samples = read_user(path)
        user = prepared["user"]
        if user not in split_of:
            raise UserError(f"{path}: user {user} is in no split of the study; leave the file out")
        inputs[split_of[user]][user] = prepared["output"]
        groups[split_of[user]] += map(seen, samples)
        found, failed = hashes_of(user, samples, root, HashStore(store))
        hashes |= found
        unreadable += failed
    if absent := split_of.keys() - {user for users in inputs.values() for user in users}:
        raise UserError(f"the prepared samples of user {min(absent)} were not given; add the user's manifest")
    compared = overlaps(groups, hashes, recipe.within)
    table, table_file = _table(compared), out.with_suffix(".csv")
    manifest = {
        **step_manifest(recipe, inputs),
        "overlaps": [asdict(overlap) for overlap in compared],
        # Images that could not be read, and so have no perceptual hash.
        "unreadable": unreadable,
        "provenance": [current_provenance(LEAKAGE)],
        "files": {table_file.name: digest_bytes(table.encode("utf-8"))},
    }
    write_text(table_file, table)
    write_result(out, manifest)
    for overlap in compared:
        logger.info("%s", _in_words(overlap))


def hashes_of(user: str, samples: Sequence[Sample], root: Path, store: HashStore) -> tuple[dict[str, str | None], int]:
    """Return the perceptual hashes of a user's images, and how many images cannot be read.

    Hashes that the store lacks are computed and stored.
    """
    images = {image["sha256"]: image for sample in samples for image in sample["images"]}
    stored = store.read(user)
    found = {sha256: stored[sha256] for sha256 in images if sha256 in stored}
    left = [image for sha256, image in images.items() if sha256 not in stored]
    if not left:
        return found, 0
    logger.info("user %s: %d screenshots have no perceptual hash yet; they are decoded once", user, len(left))
    unreadable = 0
    for number, image in enumerate(left, start=1):
        try:
            found[image["sha256"]] = perceptual_hash(load_image(root, image))
        except BadImageError as error:
            logger.warning("compared by its bytes only: %s", error)
            unreadable += 1
        if number % SAVE_EVERY == 0:
            store.write(user, found)
    store.write(user, found)
    return found, unreadable


def _table(found: Sequence[Overlap]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(overlap) for overlap in found)
    return file.getvalue()


def _in_words(overlap: Overlap) -> str:
    return (
        f"{overlap.later} and {overlap.earlier}: {overlap.identical_screenshots} identical and "
        f"{overlap.near_identical_screenshots} nearly identical screenshots, {overlap.identical_pairs} identical "
        f"questions and answers; {overlap.affected} of {overlap.samples} {overlap.later} samples are affected"
    )
