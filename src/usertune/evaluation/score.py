"""Score: measure the predictions of one experiment for one user.

A study scores hundreds of pairs of experiment and user, so this module imports nothing that takes long to import.
"""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from usertune.core.clock import utc_now
from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.core.hashing import digest_bytes, digest_file
from usertune.core.manifest import read_manifest, read_result, step_manifest, write_result
from usertune.core.step_names import PREPARE, SCORE
from usertune.data.folds import folds_of
from usertune.data.samples import read_samples
from usertune.evaluation.answers import REMAKE_PREDICTIONS, Answer, answers_digest, answers_of_user
from usertune.evaluation.facts import facts_of
from usertune.evaluation.recipe import ScoreRecipe
from usertune.tasks.catalogue import get_task
from usertune.tasks.metrics import Metric, aggregates, combine_episodes, sample_values
from usertune.tasks.task import Task

logger = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(frozen=True)
class ScoreFiles:
    """Files of one user's score.

    Attributes:
        samples: the user's canonical samples, one JSON object a line.
        predictions: what the predict step wrote for a batch of users that includes this one.
        rows: CSV to write, one row a sample.
        metrics: JSON to write.
        store: folder where every score is kept under its fingerprint.
    """

    samples: Path
    predictions: Path
    rows: Path
    metrics: Path
    store: Path


def score_user(recipe: ScoreRecipe, experiment: str, user: str, files: ScoreFiles) -> dict[str, Any]:
    """Score one user's predictions and write the rows (CSV), then the metrics (JSON), which are returned.

    What was scored before by the same code at the same thresholds is taken from the store.

    Args:
        recipe: the task, and the thresholds: a hit is a distance <= threshold.
        experiment: name of the experiment.
        user: the user.
        files: what is read and written.

    Raises:
        UserError: a file is malformed or belongs to another experiment or user, the user has no sample (a
            user without samples has no accuracy, and averages would silently cover fewer users) or too few for the
            folds, or samples and predictions do not match one to one.
    """
    metrics = recipe.metrics
    samples = read_samples(files.samples, user)
    predictions = _predictions_of(files.predictions, _modified(files.predictions))
    answers = answers_of_user(predictions, files.predictions, experiment, user)
    _require_same_ids(samples, answers, files.samples, files.predictions)

    said = step_manifest(recipe, {"samples": digest_file(files.samples), "answers": answers_digest(answers)})
    fingerprint = said["fingerprint"]
    stored = files.store / f"{fingerprint[:32]}.json"
    score = _read_stored(stored, fingerprint)
    if score is None:
        fold_of = folds_of(samples, recipe.folds) if recipe.folds else {}
        rows = score_samples(recipe.task, metrics, samples, answers, files.samples, fold_of)
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
        **said,
        "experiment": experiment,
        "user": user,
        "lineage": {**lineage, PREPARE: lineage[PREPARE][user], SCORE: fingerprint},
        "provenance": predictions["provenance"],
        # A score that an older release stored has no time.
        "scored": score.get("scored"),
        "files": {files.rows.name: digest_bytes(score["rows"].encode("utf-8"))},
        **score["metrics"],
    }
    write_text(files.rows, score["rows"])
    write_result(files.metrics, result)
    return result


def score_samples(
    task_name: str,
    metrics: Sequence[Metric],
    samples: Sequence[Mapping[str, Any]],
    answers: Mapping[str, Answer],
    samples_file: Path,
    fold_of: Mapping[str, int] | None = None,
) -> list[Row]:
    """Return one row per sample, in the order of ``samples``.

    A row has id, user, episode, step, fold (if ``fold_of``, by sample id, is given), parsed (0 or 1), form (the form of
    the answer, or why it is unparsed), the details of the task (for grounding x, y, target_x and target_y, 0-1000) and
    one column for each distinct column of the metrics; None where a sample has no value. The metrics of further tasks
    follow those of the task; a further task reads the answers by its own rules, and its metrics have no value where it
    does not apply to a sample. The last columns are those of `usertune.evaluation.facts.facts_of`.

    Raises:
        UserError: the task is unknown or a sample's target is not one of this task.
    """
    task = get_task(task_name)
    own = [metric for metric in metrics if not metric.task]
    names = dict.fromkeys(metric.task for metric in metrics if metric.task)
    further = [(get_task(name), [metric for metric in metrics if metric.task == name]) for name in names]
    rows: list[Row] = []
    for sample, facts in zip(samples, facts_of(samples, answers), strict=True):
        try:
            target = task.target_of(sample)
        except ValueError as error:
            raise UserError(
                f"{samples_file}: sample {sample['id']!r}: {error}; "
                "check the dataset's answer for it, then prepare the user again"
            ) from None
        given = answers[sample["id"]]
        answer, form = task.read(*given)
        row: Row = {name: sample[name] for name in ("id", "user", "episode", "step")}
        row |= {"fold": fold_of[sample["id"]]} if fold_of else {}
        row |= {"parsed": int(answer is not None), "form": form, **task.details(answer, target)}
        values = sample_values(own, answer, target)
        for other, others in further:
            values |= _further_values(other, others, sample, given)
        if taken := sorted((row.keys() | facts.keys()) & values.keys()):
            raise ValueError(f"METRICS of {task_name}: the column {taken[0]} is taken; choose another name")
        rows.append(row | values | facts)
    combine_episodes(metrics, rows)
    return rows


def _further_values(
    task: Task, metrics: Sequence[Metric], sample: Mapping[str, Any], given: Answer
) -> dict[str, float | None]:
    """Return the values of a further task; None where it does not apply to the sample."""
    try:
        target = task.target_of(sample)
    except ValueError:
        return {metric.column: None for metric in metrics}
    answer, _ = task.read(*given)
    return sample_values(metrics, answer, target)


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


def _modified(path: Path) -> tuple[int, int] | None:
    stat = path.stat() if path.exists() else None
    return (stat.st_mtime_ns, stat.st_ino) if stat else None


@lru_cache(maxsize=1)
def _predictions_of(path: Path, _state: object) -> dict[str, Any]:
    """Return the predictions of a batch, which is read once for all of its users."""
    return read_manifest(path)


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
