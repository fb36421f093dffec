"""Score: measure the predictions of one experiment for one user.

A study scores hundreds of pairs of experiment and user, a batch of users per process, so this room uses only the
standard library.
"""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from usertune.core.clock import utc_now
from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.core.hashing import digest_bytes, digest_file
from usertune.core.manifest import read_result, write_result
from usertune.core.step_fingerprints import score_fingerprint
from usertune.core.step_names import PREPARE, SCORE
from usertune.data.samples import read_samples
from usertune.evaluation.answers import REMAKE_PREDICTIONS, Answer, answers_of_user
from usertune.evaluation.thresholds import metrics_of
from usertune.tasks.catalogue import get_task
from usertune.tasks.metrics import Metric, aggregates, combine_episodes, sample_values

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def score_user(
    recipe: Mapping[str, Any],
    experiment: str,
    user: str,
    samples_file: Path,
    predictions_file: Path,
    rows_file: Path,
    metrics_file: Path,
    store_folder: Path,
) -> dict[str, Any]:
    """Score one user's predictions and write the rows (CSV), then the metrics (JSON), which are returned.

    What was scored before by the same code at the same thresholds is taken from the store.

    Args:
        recipe: ``{"step": "score", "task": name, "thresholds": [140, ...], ...}``; the first threshold is the
            primary one. Thresholds are distances in the 0-1000 space; a hit is a distance <= threshold.
        samples_file: the user's canonical samples, one JSON object a line.
        predictions_file: what the predict step wrote for a batch of users that includes this one.
        store_folder: where every score is kept under its fingerprint.

    Raises:
        UserError: a file is malformed or belongs to another experiment or user, the user has no sample (a
            user without samples has no accuracy, and averages would silently cover fewer users), or samples
            and predictions do not match one to one.
    """
    metrics = metrics_of(recipe)
    samples = read_samples(samples_file, user)
    predictions = read_result(predictions_file)
    answers = answers_of_user(predictions, predictions_file, experiment, user)
    _require_same_ids(samples, answers, samples_file, predictions_file)

    fingerprint = score_fingerprint(recipe, digest_file(samples_file), answers)
    stored = store_folder / f"{fingerprint[:32]}.json"
    score = _read_stored(stored, fingerprint)
    if score is None:
        rows = score_samples(str(recipe.get("task")), metrics, samples, answers, samples_file)
        score = {
            "fingerprint": fingerprint,
            "scored": utc_now(),
            "metrics": summarise(rows, metrics),
            "rows": _as_csv(rows),
        }
        write_result(stored, score)
        logger.info("%s, user %s: scored", experiment, user)
    else:
        logger.info("%s, user %s: was scored before (fingerprint %s)", experiment, user, fingerprint[:16])
    lineage = predictions["lineage"]
    result = {
        "step": SCORE,
        "experiment": experiment,
        "user": user,
        "recipe": dict(recipe),
        "fingerprint": fingerprint,
        "lineage": {**lineage, PREPARE: lineage[PREPARE][user], SCORE: fingerprint},
        "provenance": predictions["provenance"],
        # A score that an older release stored has no time.
        "scored": score.get("scored"),
        "files": {rows_file.name: digest_bytes(score["rows"].encode("utf-8"))},
        **score["metrics"],
    }
    write_text(rows_file, score["rows"])
    write_result(metrics_file, result)
    return result


def score_samples(
    task_name: str,
    metrics: Sequence[Metric],
    samples: Sequence[Mapping[str, Any]],
    answers: Mapping[str, Answer],
    samples_file: Path,
) -> list[Row]:
    """Return one row per sample, in the order of ``samples``.

    A row has id, user, episode, step, parsed (0 or 1), form (the form of the answer, or why it is unparsed), the
    details of the task (for grounding x, y, target_x and target_y, 0-1000) and one column for each distinct column of
    the metrics; None where a sample has no value.

    Raises:
        UserError: the task is unknown or a sample's target is not one of this task.
    """
    task = get_task(task_name)
    rows: list[Row] = []
    for sample in samples:
        try:
            target = task.read_target(sample["target"])
        except ValueError as error:
            raise UserError(
                f"{samples_file}: sample {sample['id']!r}: {error}; "
                "check the dataset's answer for it, then prepare the user again"
            ) from None
        answer, form = task.read(*answers[sample["id"]])
        row: Row = {name: sample[name] for name in ("id", "user", "episode", "step")}
        row |= {"parsed": int(answer is not None), "form": form, **task.details(answer, target)}
        values = sample_values(metrics, answer, target)
        if taken := sorted(row.keys() & values.keys()):
            raise ValueError(f"METRICS of {task_name}: the column {taken[0]} is taken; choose another name")
        rows.append(row | values)
    combine_episodes(metrics, rows)
    return rows


def summarise(rows: Sequence[Row], metrics: Sequence[Metric]) -> dict[str, Any]:
    """Return the aggregates of at least one row.

    ``parse_rate`` is a fraction of all samples, and ``forms`` counts the rows by form. The metrics follow, see
    `usertune.tasks.metrics.aggregates`. Read those over parsed answers only together with the parse rate.
    """
    parsed = sum(row["parsed"] for row in rows)
    return {
        "samples": len(rows),
        "parsed": parsed,
        "parse_rate": parsed / len(rows),
        "forms": dict(sorted(Counter(row["form"] for row in rows).items())),
        **aggregates(metrics, rows),
    }


def _read_stored(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return a stored score; None if there is none, or if the file is damaged or holds another score."""
    try:
        score = read_result(path) if path.exists() else None
    except UserError as problem:
        logger.warning("%s", problem)
        return None
    if score and score.get("fingerprint") != fingerprint:
        logger.warning("%s: does not hold the score that its name says; scoring again", path)
        return None
    return score


def _require_same_ids(
    samples: Sequence[Mapping[str, Any]], answers: Mapping[str, Answer], samples_file: Path, predictions_file: Path
) -> None:
    identities = {sample["id"] for sample in samples}
    if missing := sorted(identities - answers.keys()):
        raise UserError(
            f"{predictions_file}: no prediction for {_some(missing)} of {samples_file}; {REMAKE_PREDICTIONS}"
        )
    if foreign := sorted(answers.keys() - identities):
        raise UserError(
            f"{predictions_file}: has predictions for {_some(foreign)}, not in {samples_file}; {REMAKE_PREDICTIONS}"
        )


def _some(identities: Sequence[str], shown: int = 3) -> str:
    rest = f" and {len(identities) - shown} more" if len(identities) > shown else ""
    return f"sample {', '.join(repr(identity) for identity in identities[:shown])}{rest}"


def _as_csv(rows: Sequence[Row]) -> str:
    """Return rows as CSV, with numbers in the shortest exact form of Python and None as an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
