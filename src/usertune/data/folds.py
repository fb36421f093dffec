"""Folds: parts of one user's own samples, each of which a personal model is not trained on.

Episodes are put in an order by a digest of seed, user and episode, and the order is cut into parts of equally many
episodes. So the fold of an episode depends neither on the order of the samples nor on what the other episodes contain,
and a new episode moves at most one episode across each of the cuts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from pydantic import Field

from usertune.core.errors import UserError
from usertune.core.hashing import digest
from usertune.core.recipe import Settings
from usertune.data.samples import Sample, request_digest

# Key of a sample's `about`.
TIME = "time"


class FoldSettings(Settings):
    """How the samples of a user are cut into folds."""

    count: int = Field(default=3, ge=2, le=1000)
    """Number of folds."""
    by: Literal["episode", "random", "time"] = "episode"
    """What stays together: episodes, drawn at random (episode) or in the order of time (time), or single samples
    (random)."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the draw; it has no effect on folds by time."""


class TrainingPart(NamedTuple):
    """The samples that the training for one fold sees, in their order, and how many copies were left out."""

    samples: list[Sample]
    copies_left_out: int


def folds_of(samples: Sequence[Sample], settings: FoldSettings) -> dict[str, int]:
    """Return sample id -> fold, from 1, for all samples of one user.

    Raises:
        UserError: the user has fewer episodes (with ``by: random``: samples) than there are folds.
    """
    together = {sample["id"]: sample["id"] if settings.by == "random" else sample["episode"] for sample in samples}
    user = _user_of(samples)
    units = list(dict.fromkeys(together.values()))
    if problem := too_few(user, samples, settings):
        raise UserError(problem)
    if settings.by == "time":
        units = episodes_in_time(samples)
    else:
        units.sort(key=lambda unit: digest(["folds", settings.seed, user, unit]))
    fold = {unit: place * settings.count // len(units) + 1 for place, unit in enumerate(units)}
    return {sample: fold[unit] for sample, unit in together.items()}


def held_out(fold_of: Mapping[str, int]) -> dict[int, str]:
    """Return fold -> digest of the ids of its samples, by which prediction recognises what a training left out.

    Args:
        fold_of: see `folds_of`.
    """
    folds: dict[int, list[str]] = {}
    for sample, fold in fold_of.items():
        folds.setdefault(fold, []).append(sample)
    return {fold: digest(sorted(ids)) for fold, ids in sorted(folds.items())}


def too_few(user: str, samples: Sequence[Sample], settings: FoldSettings) -> str | None:
    """Say that a user has too few samples for the folds, and what to do; None if there are enough."""
    return too_few_of(user, {"samples": len(samples), "episodes": len({item["episode"] for item in samples})}, settings)


def too_few_of(user: str, counts: Mapping[str, int], settings: FoldSettings) -> str | None:
    """Say the same as `too_few` from the numbers of ``samples`` and ``episodes``, which a user's manifest has."""
    count = counts["samples" if settings.by == "random" else "episodes"]
    if count >= settings.count:
        return None
    what = "sample" if settings.by == "random" else "episode"
    fewer = f"set folds.count to {count} or less, or" if count > 1 else "use more data of the user, or"
    other = "set folds.by: random (which separates samples of an episode), or " if what == "episode" else ""
    return (
        f"user {user} has {count} {what}{'s' * (count != 1)}, which is too few for {settings.count} folds "
        f"(folds.count, folds.by: {settings.by}); {fewer} {other}leave the user out of the study"
    )


def episodes_in_time(samples: Sequence[Sample]) -> list[str]:
    """Return the episodes of one user in the order of time.

    If every episode has a sample with a time (``about.time``, all ISO 8601 or all numbers), the earliest time of each
    counts; otherwise the order of the data.
    """
    known = dict.fromkeys(sample["episode"] for sample in samples)
    stated = [(sample["episode"], sample["about"][TIME]) for sample in samples if TIME in sample.get("about", {})]
    for read in (_seconds, _number):
        times: dict[str, float] = {}
        for episode, value in stated:
            if (time := read(value)) is None:
                break
            times[episode] = min(time, times.get(episode, time))
        else:
            if known.keys() <= times.keys():
                # Sorting is stable, so episodes of the same time keep the order of the data.
                return sorted(known, key=times.__getitem__)
    return list(known)


def training_part(
    samples: Sequence[Sample], fold_of: Mapping[str, int], fold: int, asked: Sequence[Sample] | None = None
) -> TrainingPart:
    """Return the samples of one user that the training for a fold may see.

    These are the samples of the other folds without copies of those of the fold: samples with the same request (see
    `usertune.data.samples.request_digest`), or with the same images and the same words before the answer, in whatever
    turns.

    Args:
        samples: all samples of the user.
        fold_of: see `folds_of`.
        fold: the fold whose samples the trained model will be asked.
        asked: all samples that it will be asked, if it serves several users; None: those of this user's fold.

    Raises:
        UserError: no sample is left, and the model serves this user alone.
    """
    copies = copies_of([sample for sample in samples if fold_of[sample["id"]] == fold] if asked is None else asked)
    others = [sample for sample in samples if fold_of[sample["id"]] != fold]
    found = [sample for sample in others if not copies(sample)]
    if not found and asked is None:
        raise UserError(
            f"user {_user_of(samples)}, fold {fold}: no sample is left for training, because all {len(others)} samples "
            "of the other folds are copies of samples of this fold; use more data of the user, or leave the user out "
            "of users.test"
        )
    return TrainingPart(found, len(others) - len(found))


def copies_of(samples: Sequence[Sample]) -> Callable[[Sample], bool]:
    """Return a predicate: whether a sample is a copy of one of these, see `training_part`."""
    requests, contents = {request_digest(sample) for sample in samples}, {_content(sample) for sample in samples}
    return lambda sample: request_digest(sample) in requests or _content(sample) in contents


def require_apart(training: Sequence[Sample], test: Sequence[Sample], settings: FoldSettings) -> None:
    """Check that a training sees nothing of what its model is asked: no sample, no copy of one, and no episode.

    With ``by: random``, episodes are not checked, because such folds cut through them.

    Raises:
        RuntimeError: it does; the message names the sample. No result may be made from such a training.
    """
    episodes = set() if settings.by == "random" else {(sample["user"], sample["episode"]) for sample in test}
    ids = {(sample["user"], sample["id"]) for sample in test}
    copies = copies_of(test)
    for sample in training:
        seen = (
            ((sample["user"], sample["id"]) in ids and "is a test sample")
            or ((sample["user"], sample["episode"]) in episodes and "is of the episode of a test sample")
            or (copies(sample) and "is a copy of a test sample")
        )
        if seen:
            raise RuntimeError(f"training sample {sample['id']!r} of user {sample['user']} {seen} of its fold")


def limited(samples: Sequence[Sample], number: int | None, seed: int) -> list[Sample]:
    """Return some samples of one user, in their order: whole episodes, then the beginning of one more.

    Smaller selections are a part of larger ones with the same seed, so that results differ by the number alone.

    Args:
        samples: the samples to choose from.
        number: how many to choose; None, or more than there are: all.
        seed: decides in which order episodes are chosen, independently of the folds with the same seed.
    """
    if number is None or number >= len(samples):
        return list(samples)
    user = _user_of(samples)
    order = {sample["episode"]: digest(["limited", seed, user, sample["episode"]]) for sample in samples}
    places = sorted(range(len(samples)), key=lambda place: (order[samples[place]["episode"]], place))
    return [samples[place] for place in sorted(places[:number])]


def _user_of(samples: Sequence[Sample]) -> str:
    users = {sample["user"] for sample in samples}
    if len(users) != 1:
        raise ValueError(f"folds are of the samples of one user; these are of {len(users)}")
    return users.pop()


def _content(sample: Sample) -> str:
    """Return the digest of the images and the words before the answer, regardless of turns, roles and white space."""
    words = [part.get("text", "") for turn in sample["messages"][:-1] for part in turn["content"]]
    return digest({"images": sorted(image["sha256"] for image in sample["images"]), "words": " ".join(words).split()})


def _seconds(value: object) -> float | None:
    """Return a time in ISO 8601 in seconds; None if it is none."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _number(value: object) -> float | None:
    """Return a time as a number, in the unit of the data; None if it is none."""
    if not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
