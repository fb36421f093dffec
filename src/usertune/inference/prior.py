"""Answers without a model: one point for many samples, from the targets of others. Does not import torch.

A prior is what a model must exceed before its score says that it sees something: the hit rate of a constant point can
be high where users tap the same places again and again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from usertune.core.clock import utc_now
from usertune.core.errors import UserError
from usertune.core.manifest import step_manifest, write_result
from usertune.core.step_names import BASE_MODEL, PREDICT, PREPARE, PRIOR, TRAIN
from usertune.data.folds import FoldSettings, folds_of, require_apart, training_part
from usertune.data.samples import Sample, read_user
from usertune.inference.recipe import PriorRecipe
from usertune.runtime.provenance import current_provenance
from usertune.tasks.catalogue import TASKS, get_task
from usertune.tasks.truth import CLICK, SCALE, Point, Truth

logger = logging.getLogger(__name__)

CENTRE: Point = (SCALE / 2, SCALE / 2)
# Points whose distances to all others are in memory at once.
CHUNK = 64
Read = list[tuple[dict[str, Any], list[Sample]]]


@dataclass(frozen=True)
class PriorFiles:
    """Files of the predictions of a prior.

    Attributes:
        users: manifests of the prepared data of the users to answer.
        targets: manifests of the prepared data of the training users, if the prior is taken from them.
        predictions: JSON object to write, with the keys that predictions of models have and a prior can have.
    """

    users: Sequence[Path]
    targets: Sequence[Path]
    predictions: Path


def predict_prior(recipe: PriorRecipe, experiment: str, files: PriorFiles) -> dict[str, Any]:
    """Write the predictions of a prior for a batch of users, and return what was written.

    Args:
        recipe: which point is the answer.
        experiment: name of the experiment.
        files: files to read and write.

    Raises:
        UserError: an input is missing or damaged, or no sample has a target to take the point from.
    """
    users = [read_user(path) for path in files.users]
    sources = [read_user(path) for path in files.targets]
    answers = _answers(recipe, users, sources)
    step = step_manifest(
        recipe, {"samples": _outputs(users), **({"targets": _outputs(sources)} if files.targets else {})}
    )
    now = utc_now()
    result = {
        **step,
        "experiment": experiment,
        "users": [manifest["user"] for manifest, _ in users],
        "lineage": {
            BASE_MODEL: None,
            PREPARE: {manifest["user"]: manifest["fingerprint"] for manifest, _ in users},
            TRAIN: None,
            PREDICT: step["fingerprint"],
        },
        "provenance": {TRAIN: [], PREDICT: [current_provenance(PRIOR, plug_ins=(TASKS.module(recipe.task),))]},
        "answered": [now, now],
        "files": {},
        "predictions": [
            {"id": sample["id"], "user": sample["user"], "text": text, "stopped": True} for sample, text in answers
        ],
    }
    write_result(files.predictions, result)
    return result


def densest(points: Sequence[Point], radius: float) -> Point:
    """Return the point with most points within a distance of it, itself included; of several the smallest (x, y).

    It is the constant answer with most hits, up to the choice of centres: a centre between the points may have more
    (Chazelle and Lee 1986, "On a circle placement problem", find the best one).

    Args:
        points: at least one point in the 0-1000 space.
        radius: the distance within which a point counts.
    """
    different, counts = np.unique(np.asarray(points, dtype=np.float64), axis=0, return_counts=True)
    hits = np.concatenate(
        [
            (np.hypot(*(different[start : start + CHUNK, None] - different).transpose(2, 0, 1)) <= radius) @ counts
            for start in range(0, len(different), CHUNK)
        ]
    )
    x, y = different[int(np.argmax(hits))]
    return float(x), float(y)


def _answers(recipe: PriorRecipe, users: Read, sources: Read) -> list[tuple[Sample, str]]:
    """Return every sample of the users with the text of its answer."""
    samples = [sample for _, own in users for sample in own]
    match recipe.prior.of:
        case "centre":
            text = _text(recipe, CENTRE)
        case "train_users":
            targets = [sample for _, own in sources for sample in own]
            text = _text(recipe, _point(recipe, targets, "the training users"))
        case "same_user":
            assert recipe.folds is not None
            return [answer for _, own in users for answer in _of_user(recipe, recipe.folds, own)]
    return [(sample, text) for sample in samples]


def _of_user(recipe: PriorRecipe, settings: FoldSettings, samples: Sequence[Sample]) -> list[tuple[Sample, str]]:
    """Return the samples of one user with answers from the samples of the other folds."""
    fold_of = folds_of(samples, settings)
    texts = {}
    for fold in sorted(set(fold_of.values())):
        part = training_part(samples, fold_of, fold)
        require_apart(part.samples, [sample for sample in samples if fold_of[sample["id"]] == fold], settings)
        texts[fold] = _text(recipe, _point(recipe, part.samples, f"user {samples[0]['user']} outside fold {fold}"))
    return [(sample, texts[fold_of[sample["id"]]]) for sample in samples]


def _point(recipe: PriorRecipe, samples: Sequence[Sample], whose: str) -> Point:
    """Return the point that stands for the targets of some samples."""
    task = get_task(recipe.task)
    points = [point for sample in samples if (point := task.clicked(task.target_of(sample)))]
    if not points:
        raise UserError(
            f"prior.of: {recipe.prior.of}: no sample of {whose} has a click as its target; use another prior, such as "
            "{of: centre}"
        )
    logger.info("the prior is taken from %d targets of %s", len(points), whose)
    if recipe.prior.point == "mean":
        x, y = np.mean(np.asarray(points, dtype=np.float64), axis=0)
        # Whole numbers, which every parser reads alike.
        return float(round(x)), float(round(y))
    assert recipe.prior.radius is not None
    return densest(points, recipe.prior.radius)


def _text(recipe: PriorRecipe, point: Point) -> str:
    return get_task(recipe.task).answer(Truth(CLICK, point=point))


def _outputs(users: Read) -> dict[str, str]:
    return {manifest["user"]: manifest["output"] for manifest, _ in users}
