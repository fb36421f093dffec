"""The step ``leakage``: compares the prepared samples of splits and folds, and writes what they have in common."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.core.hashing import digest_bytes
from usertune.core.manifest import step_manifest, write_result
from usertune.core.step_names import LEAKAGE
from usertune.core.users import parse_users
from usertune.data.folds import folds_of
from usertune.data.images import BadImageError, load_image
from usertune.data.leakage import Overlap, Seen, fold_overlaps, in_words, overlaps, pooled_overlap, seen
from usertune.data.perceptual_hash import HashStore, perceptual_hash
from usertune.data.recipe import LeakageRecipe
from usertune.data.samples import Sample, read_user
from usertune.runtime.provenance import current_provenance

logger = logging.getLogger(__name__)

COLUMNS = tuple(column.name for column in fields(Overlap) if column.name != "examples")
SAVE_EVERY = 200
SPLIT_ORDER = ("train", "validation", "test")


def measure_leakage(recipe: LeakageRecipe, manifests: Sequence[Path], root: Path, store: Path, out: Path) -> None:
    """Compare the prepared samples of all pairs of splits, and those of each test user's folds.

    Perceptual hashes come from the store, where the prepare step puts them; for images that it lacks (prepared by an
    older release), the images are decoded once and their hashes stored.

    Args:
        recipe: the users of each split, their folds if there are any, and how screenshots are compared.
        manifests: manifests of all users' prepared samples.
        root: folder of the raw data, to which image paths are relative.
        store: folder of `HashStore`.
        out: the manifest to write, with the overlaps (`usertune.data.leakage.Overlap`) of splits under ``overlaps``,
            and of folds under ``folds``, for pooled weights as the last one. The table next to it, with the suffix
            ``.csv``, has a row for each.

    Raises:
        UserError: prepared samples are missing or damaged, their users are not those of the recipe, or a test user has
            too few samples for the folds.
    """
    split_of = {user: split for split, users in recipe.splits.items() if users for user in parse_users(users)}
    # Recipes are canonical JSON, whose keys are sorted.
    order = dict.fromkeys((*SPLIT_ORDER, *recipe.splits))
    groups: dict[str, list[Seen]] = {split: [] for split in order if recipe.splits.get(split)}
    inputs: dict[str, dict[str, str]] = {split: {} for split in recipe.splits}
    hashes: dict[str, str | None] = {}
    folds: dict[str, dict[str, int]] = {}
    unreadable = 0
    for path in manifests:
        prepared, samples = read_user(path)
        user = prepared["user"]
        if user not in split_of:
            raise UserError(f"{path}: user {user} is in no split of the study; leave the file out")
        inputs[split_of[user]][user] = prepared["output"]
        groups[split_of[user]] += map(seen, samples)
        if recipe.folds and split_of[user] == "test":
            folds[user] = folds_of(samples, recipe.folds)
        found, failed = hashes_of(user, samples, root, HashStore(store))
        hashes |= found
        unreadable += failed
    if absent := split_of.keys() - {user for users in inputs.values() for user in users}:
        raise UserError(f"the prepared samples of user {min(absent)} were not given; add the user's manifest")
    compared = overlaps(groups, hashes, recipe.within)
    of_folds = _compare_folds(recipe, groups, folds, hashes)
    table, table_file = _table([*compared, *of_folds]), out.with_suffix(".csv")
    manifest = {
        **step_manifest(recipe, inputs),
        "overlaps": [asdict(overlap) for overlap in compared],
        **({"folds": [asdict(overlap) for overlap in of_folds]} if recipe.folds else {}),
        # Images that could not be read, and so have no perceptual hash.
        "unreadable": unreadable,
        "provenance": [current_provenance(LEAKAGE)],
        "files": {table_file.name: digest_bytes(table.encode("utf-8"))},
    }
    write_text(table_file, table)
    write_result(out, manifest)
    for overlap in (*compared, *of_folds[:1], *(of_folds[-1:] if recipe.pooled else [])):
        logger.info("%s", in_words(asdict(overlap)))


def _compare_folds(
    recipe: LeakageRecipe,
    groups: Mapping[str, Sequence[Seen]],
    folds: Mapping[str, Mapping[str, int]],
    hashes: Mapping[str, str | None],
) -> list[Overlap]:
    if not folds:
        return []
    users: dict[str, list[Seen]] = {}
    for sample in groups["test"]:
        users.setdefault(sample.user, []).append(sample)
    pooled = [pooled_overlap(users, folds, hashes, recipe.within)] if recipe.pooled else []
    return [*fold_overlaps(users, folds, hashes, recipe.within), *pooled]


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
