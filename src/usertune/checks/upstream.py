"""Whether a result was made from what lies upstream of it now: what the audit asks, and the planner before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.hashing import step_fingerprint
from usertune.core.step_fingerprints import (
    base_model_fingerprint,
    compare_fingerprint,
    figure_fingerprint,
    model_of,
    predict_fingerprint,
    prepare_fingerprint,
    report_fingerprint,
    samples_digest,
    score_fingerprint,
    train_fingerprint,
)
from usertune.core.step_names import BASE_MODEL
from usertune.evaluation.answers import answers_of_user
from usertune.pipeline import steps
from usertune.pipeline.layout import Result
from usertune.study.schema.study import Study

Manifest = dict[str, Any]


def not_made_from_upstream(study: Study, result: Result, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """Yield how a result, which is whole and of today's recipe, does not fit to what it is made from.

    Args:
        study: the study.
        result: the result.
        manifests: manifests by path, its own among them. Where one from upstream is missing nothing is said, since
            the result follows it.
    """
    if any(path not in manifests for path in result.upstream):
        return
    try:
        expected = _FINGERPRINTS[result.step](study, result, manifests)
    except (KeyError, TypeError, ValueError, UserError) as error:
        yield f"cannot be checked against what it was made from: {error}"
        return
    if expected != manifests[result.manifest].get("fingerprint"):
        yield f"made from something else than {_upstream_in_words(result)} as they are now"


def _upstream_in_words(result: Result) -> str:
    if len(result.upstream) > 4:
        return f"the {len(result.upstream)} results that it is made from,"
    return ", ".join(result.upstream) or "its own files,"


def _prepare(_study: Study, result: Result, manifests: Mapping[str, Manifest]) -> str:
    return prepare_fingerprint(result.recipe, samples_digest(manifests[result.manifest]))


def _base_model(_study: Study, result: Result, manifests: Mapping[str, Manifest]) -> str:
    return base_model_fingerprint(manifests[result.manifest]["model_files"])


def _train(_study: Study, result: Result, manifests: Mapping[str, Manifest]) -> str:
    base, train, validation = _by_role(result, manifests)
    return train_fingerprint(result.recipe, base[0], train, validation)


def _predict(_study: Study, result: Result, manifests: Mapping[str, Manifest]) -> str:
    (base,), weights, samples = _by_role(result, manifests)
    trained = weights[0] if weights else None
    own = manifests[result.manifest]
    if trained and trained[BASE_MODEL] != base["fingerprint"]:
        raise UserError("the training was on another base model")
    # Rows of another experiment or user would have the right fingerprint, which names inputs and not rows.
    if {row["user"] for row in own["predictions"]} != set(result.users):
        raise UserError("it holds other users' rows")
    return predict_fingerprint(result.recipe, model_of(base, trained), samples)


def _score(_study: Study, result: Result, manifests: Mapping[str, Manifest]) -> str:
    (data,), (predictions,) = _by_role(result, manifests)
    (path,) = result.inputs["answers"]
    answers = answers_of_user(predictions, Path(path), str(result.experiment), result.users[0])
    return score_fingerprint(result.recipe, samples_digest(data), answers)


def _compare(_study: Study, result: Result, manifests: Mapping[str, Manifest]) -> str:
    (scores,) = _by_role(result, manifests)
    return compare_fingerprint(result.recipe, scores)


def _figure(_study: Study, result: Result, manifests: Mapping[str, Manifest]) -> str:
    (tables,), trainings = _by_role(result, manifests)
    logs = {training["experiment"]: training["files"]["training_log.csv"] for training in trainings}
    return figure_fingerprint(result.recipe, tables, logs)


def _audit(_study: Study, result: Result, _manifests: Mapping[str, Manifest]) -> str:
    return step_fingerprint(result.recipe, {})


def _report(_study: Study, result: Result, manifests: Mapping[str, Manifest]) -> str:
    _, (tables,), figures, data = _by_role(result, manifests)
    return report_fingerprint(result.recipe, tables, figures, data)


def _by_role(result: Result, manifests: Mapping[str, Manifest]) -> list[list[Manifest]]:
    """Return the manifests that a result is made from, a list a role, in the order of the table of steps."""
    return [[manifests[path] for path in paths] for paths in result.inputs.values()]


_FINGERPRINTS: dict[str, Callable[[Study, Result, Mapping[str, Manifest]], str]] = {
    steps.PREPARE.name: _prepare,
    steps.BASE_MODEL.name: _base_model,
    steps.TRAIN.name: _train,
    steps.PREDICT.name: _predict,
    steps.SCORE.name: _score,
    steps.COMPARE.name: _compare,
    steps.FIGURE.name: _figure,
    steps.AUDIT.name: _audit,
    steps.REPORT.name: _report,
}
