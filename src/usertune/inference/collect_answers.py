"""Takes answers that were generated elsewhere as the predictions of a batch of users. Needs no model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from usertune.core.hashing import digest
from usertune.core.manifest import step_manifest, write_result
from usertune.core.step_names import BASE_MODEL, PREDICT, PREPARE, TRAIN
from usertune.data.samples import read_user
from usertune.inference.answers_file import files_of, read_answers
from usertune.inference.recipe import AnswersRecipe
from usertune.models.external_weights import SOURCE

logger = logging.getLogger(__name__)

# What the predictions of a model say of their generation, for answers of which it is not known.
UNKNOWN_COST: dict[str, Any] = {
    "generated": 0,
    "generation_seconds": 0.0,
    "loading_seconds": None,
    "answer_seconds": 0.0,
    "timed_answers": 0,
    "answer_joules": None,
    "answered": None,
    "batch_sizes": [],
    "gpus": [],
    "gpus_used": [],
    "adapter_effect": None,
    "store_folder": "",
}


def answers_state(path: str, users: Sequence[str]) -> str:
    """Return a digest of sizes and times of the files with some users' answers; missing files count too."""
    states = {}
    for user, file in files_of(path, users).items():
        stat = file.stat() if file.exists() else None
        states[user] = [stat.st_size, stat.st_mtime_ns] if stat else None
    return digest(states)


def given_digests(predictions: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return user -> digest of the user's answers, from rows of predictions."""
    rows: dict[str, list[Any]] = {}
    for row in predictions:
        rows.setdefault(row["user"], []).append([row["id"], row["text"], row["stopped"]])
    return {user: digest(sorted(own)) for user, own in rows.items()}


def _by_name(files: Mapping[str, str]) -> dict[str, str]:
    return {Path(path).name: sha256 for path, sha256 in files.items()}


def collect_answers(
    recipe: AnswersRecipe, experiment: str, path: str, users: Sequence[Path], predictions_file: Path
) -> dict[str, Any]:
    """Write the answers of a batch of users as predictions.

    Args:
        recipe: where the answers come from, as the study says.
        experiment: name of the experiment.
        path: path of the files, relative to the working directory (see `usertune.inference.answers_file`).
        users: manifests of the users' prepared data.
        predictions_file: JSON object to write, with the answer of every sample.

    Returns:
        The object written. Its ``inputs`` have a digest of each user's answers, and ``answers_files`` those of the
        files.

    Raises:
        UserError: an answer is missing, or one is not usable; the message lists all problems.
    """
    prepared = [read_user(manifest) for manifest in users]
    names = [manifest["user"] for manifest, _ in prepared]
    # Before reading, so that a change while reading is seen.
    state = answers_state(path, names)
    wanted = {manifest["user"]: {sample["id"]: None for sample in samples} for manifest, samples in prepared}
    found = read_answers(path, wanted, f"experiments.{experiment}.answers")
    rows = [
        {"id": identity, "user": user, "text": answer.text, "new_tokens": None, "stopped": answer.stopped}
        for user, own in found.answers.items()
        for identity, answer in own.items()
    ]
    inputs = {
        "samples": {manifest["user"]: manifest["output"] for manifest, _ in prepared},
        "answers": given_digests(rows),
    }
    step = step_manifest(recipe, inputs)
    result = {
        **step,
        "experiment": experiment,
        "users": names,
        "lineage": {
            BASE_MODEL: None,
            PREPARE: {manifest["user"]: manifest["fingerprint"] for manifest, _ in prepared},
            TRAIN: None,
            PREDICT: step["fingerprint"],
            SOURCE: {"name": f"answers from elsewhere ({recipe.answers})", "sha256": _by_name(found.files)},
        },
        # What code and machine generated them is not known.
        "provenance": {TRAIN: [], PREDICT: []},
        **UNKNOWN_COST,
        "reused": len(rows),
        "answers_state": state,
        "answers_files": found.files,
        "files": {},
        "predictions": rows,
    }
    write_result(predictions_file, result)
    logger.info("%s: %d answers read from %s", experiment, len(rows), ", ".join(found.files))
    return result
