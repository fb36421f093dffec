"""Leakage: screenshots, questions and answers that two groups of samples have in common.

Groups are the splits of a study, and of each test user every fold and the other folds together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

from usertune.core.hashing import digest
from usertune.data.near_duplicates import HashIndex
from usertune.data.samples import Sample

EXAMPLES = 3
# Names of the groups of `fold_overlaps`.
OTHER_FOLDS, ALL_FOLDS, FOLDS_OF = "other folds of the user", "each fold of all test users", "each fold of user "
POOLED_FOLDS = "other folds of all test users"
# Fields of `Overlap` that are not counted.
_NOT_COUNTED = frozenset({"earlier", "later", "share", "examples"})


class Seen(NamedTuple):
    """What is compared of one sample.

    Attributes:
        user: the user's id.
        id: id of the sample.
        images: SHA-256 of each image's bytes.
        paths: path of each image.
        pair: digest of all turns, questions and answers, without images.
    """

    user: str
    id: str
    images: tuple[str, ...]
    paths: tuple[str, ...]
    pair: str


@dataclass
class Overlap:
    """What a group of samples has in common with an earlier group.

    Attributes:
        earlier: name of the earlier group.
        later: name of the later group.
        samples: number of samples of the later group.
        screenshots: number of different screenshots of the later group.
        identical_screenshots: those with the same bytes as one of the earlier group.
        near_identical_screenshots: those with other bytes, but almost the same perceptual hash.
        identical_pairs: number of different conversations (questions and answers) that both groups have, regardless of
            screenshots.
        samples_with_identical_screenshot: samples of the later group that show an identical screenshot.
        samples_with_near_identical_screenshot: samples that show a nearly identical one, and no identical one.
        samples_with_identical_pair: samples of the later group with such a conversation.
        samples_repeated: samples that have screenshots, question and answer of one earlier sample.
        affected: samples that show an identical or nearly identical screenshot.
        share: ``affected`` as a fraction of ``samples``.
        examples: some of each kind, as ``{"kind", "later", "earlier"}``, and ``bits`` for nearly identical ones.
    """

    earlier: str
    later: str
    samples: int = 0
    screenshots: int = 0
    identical_screenshots: int = 0
    near_identical_screenshots: int = 0
    identical_pairs: int = 0
    samples_with_identical_screenshot: int = 0
    samples_with_near_identical_screenshot: int = 0
    samples_with_identical_pair: int = 0
    samples_repeated: int = 0
    affected: int = 0
    share: float = 0.0
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def any(self) -> bool:
        """Whether the groups have anything in common."""
        return bool(self.affected or self.identical_pairs)


def seen(sample: Sample) -> Seen:
    """Return what is compared of a sample."""
    images = sample["images"]
    return Seen(
        sample["user"],
        sample["id"],
        tuple(image["sha256"] for image in images),
        tuple(image["path"] for image in images),
        digest(sample["messages"]),
    )


def overlaps(groups: Mapping[str, Iterable[Seen]], hashes: Mapping[str, str | None], within: int) -> list[Overlap]:
    """Compare every group of samples with every earlier one.

    Args:
        groups: name -> samples, in order: with ``train`` before ``test``, samples of ``test`` are counted.
        hashes: SHA-256 of an image -> perceptual hash; images without one are compared by their bytes only.
        within: number of bits in which perceptual hashes of nearly identical screenshots may differ.

    Returns:
        One overlap for each pair of groups, in their order.
    """
    prepared = [_Group(name, list(samples), hashes) for name, samples in groups.items()]
    return [_compare(earlier, later, within) for earlier, later in combinations(prepared, 2)]


def fold_overlaps(
    users: Mapping[str, Sequence[Seen]],
    folds: Mapping[str, Mapping[str, int]],
    hashes: Mapping[str, str | None],
    within: int,
) -> list[Overlap]:
    """Compare each fold of a user with the user's other folds, which a model that is asked the fold is trained on.

    Args:
        users: user -> samples.
        folds: user -> sample id -> fold.
        hashes, within: see `overlaps`.

    Returns:
        The sum over all users, then one overlap for each user, which is the sum over the user's folds: a screenshot in
        two folds is counted in both.
    """
    found = []
    for user, samples in users.items():
        fold_of = folds[user]
        parts = []
        for fold in sorted(set(fold_of.values())):
            others = [sample for sample in samples if fold_of[sample.id] != fold]
            own = [sample for sample in samples if fold_of[sample.id] == fold]
            parts += overlaps({OTHER_FOLDS: others, f"fold {fold}": own}, hashes, within)
        found.append(_sum(OTHER_FOLDS, f"{FOLDS_OF}{user}", parts))
    return [_sum(OTHER_FOLDS, ALL_FOLDS, found), *found]


def pooled_overlap(
    users: Mapping[str, Sequence[Seen]],
    folds: Mapping[str, Mapping[str, int]],
    hashes: Mapping[str, str | None],
    within: int,
) -> Overlap:
    """Compare each fold of all users with the other folds of all users, which pooled weights are trained on.

    The arguments are those of `fold_overlaps`; a fold has the same number for all users.
    """
    samples = [(sample, folds[user][sample.id]) for user, own in users.items() for sample in own]
    parts = []
    for fold in sorted({number for _, number in samples}):
        others = [sample for sample, number in samples if number != fold]
        own = [sample for sample, number in samples if number == fold]
        parts += overlaps({POOLED_FOLDS: others, f"fold {fold}": own}, hashes, within)
    return _sum(POOLED_FOLDS, ALL_FOLDS, parts)


def in_words(row: Mapping[str, Any]) -> str:
    """Return an overlap, as a dict, as a line for people; counts of what was not compared are None."""
    later, earlier = row["later"], row["earlier"]
    found = f"{row['identical_screenshots']:,} identical"
    if row["identical_pairs"] is None:
        found += " screenshots"
    else:
        found += f" and {row['near_identical_screenshots']:,} nearly identical screenshots"
        found += f", {row['identical_pairs']:,} identical questions and answers"
    whose = "" if earlier in (OTHER_FOLDS, POOLED_FOLDS) else f"{later} "
    return f"{later} and {earlier}: {found}; {row['affected']:,} of {row['samples']:,} {whose}samples are affected"


def _sum(earlier: str, name: str, parts: Sequence[Overlap]) -> Overlap:
    counted = [column.name for column in fields(Overlap) if column.name not in _NOT_COUNTED]
    found = Overlap(earlier, name, **{key: sum(getattr(part, key) for part in parts) for key in counted})
    found.share = found.affected / found.samples if found.samples else 0.0
    found.examples = [example for part in parts for example in part.examples][:EXAMPLES]
    return found


class _Group:
    """The samples of one group, by what they contain."""

    def __init__(self, name: str, samples: Sequence[Seen], hashes: Mapping[str, str | None]) -> None:
        self.name, self.samples = name, samples
        self.images: dict[str, tuple[Seen, str]] = {}
        self.pairs: dict[str, Seen] = {}
        for sample in samples:
            self.pairs.setdefault(sample.pair, sample)
            for sha256, path in zip(sample.images, sample.paths, strict=True):
                self.images.setdefault(sha256, (sample, path))
        self.whole = {(sample.images, sample.pair) for sample in samples}
        self.hashes = {sha256: value for sha256 in self.images if (value := hashes.get(sha256))}

    @cached_property
    def index(self) -> tuple[HashIndex, list[str]]:
        """The index of the different hashes, and an image with each."""
        image_of: dict[str, str] = {}
        for sha256, value in self.hashes.items():
            image_of.setdefault(value, sha256)
        return HashIndex(list(image_of)), list(image_of.values())

    def near(self, hashes: Mapping[str, str], within: int) -> dict[str, tuple[str, int]]:
        """Return image -> (nearly identical image of this group, bits in which they differ)."""
        if not hashes or not self.hashes:
            return {}
        index, images = self.index
        found, bits = index.find(list(hashes.values()), within)
        return {
            image: (images[position], int(distance))
            for image, position, distance in zip(hashes, found, bits, strict=True)
            if position >= 0
        }


def _compare(earlier: _Group, later: _Group, within: int) -> Overlap:
    same = earlier.images.keys() & later.images.keys()
    others = {sha256: value for sha256, value in later.hashes.items() if sha256 not in same}
    near = earlier.near(others, within)
    found = Overlap(
        earlier.name,
        later.name,
        samples=len(later.samples),
        screenshots=len(later.images),
        identical_screenshots=len(same),
        near_identical_screenshots=len(near),
        identical_pairs=len(earlier.pairs.keys() & later.pairs.keys()),
    )
    for sample in later.samples:
        identical = any(sha256 in same for sha256 in sample.images)
        similar = not identical and any(sha256 in near for sha256 in sample.images)
        found.samples_with_identical_screenshot += identical
        found.samples_with_near_identical_screenshot += similar
        found.samples_with_identical_pair += sample.pair in earlier.pairs
        found.samples_repeated += bool(sample.images) and (sample.images, sample.pair) in earlier.whole
    found.affected = found.samples_with_identical_screenshot + found.samples_with_near_identical_screenshot
    found.share = found.affected / found.samples if found.samples else 0.0
    found.examples = _examples(earlier, later, same, near)
    return found


def _examples(
    earlier: _Group, later: _Group, same: set[str], near: Mapping[str, tuple[str, int]]
) -> list[dict[str, Any]]:
    def image(group: _Group, sha256: str) -> dict[str, str]:
        sample, path = group.images[sha256]
        return {"user": sample.user, "id": sample.id, "image": path}

    def pair(group: _Group, value: str) -> dict[str, str]:
        return {"user": group.pairs[value].user, "id": group.pairs[value].id}

    shared = [sha256 for sha256 in later.images if sha256 in same][:EXAMPLES]
    closest = sorted(near, key=lambda sha256: near[sha256][1])[:EXAMPLES]
    pairs = [value for value in later.pairs if value in earlier.pairs][:EXAMPLES]
    return [
        *({"kind": "identical", "later": image(later, key), "earlier": image(earlier, key)} for key in shared),
        *(
            {
                "kind": "near-identical",
                "bits": near[key][1],
                "later": image(later, key),
                "earlier": image(earlier, near[key][0]),
            }
            for key in closest
        ),
        *({"kind": "question and answer", "later": pair(later, key), "earlier": pair(earlier, key)} for key in pairs),
    ]
