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
from usertune.evaluation.score import answers_of_user
from usertune.pipeline.layout import Result, comparison_place
from usertune.study.schema import Study

Manifest = dict[str, Any]


def not_made_from_upstream(study: Study, result: Result, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """Yield how a result, which is whole and of today's recipe, does not fit to what it is made from.

    Args:
        study: the study.
        result: the result.
        manifests: manifests by place, its own among them. Where one from upstream is missing nothing is said, since
            the result follows it.
    """
    if any(place not in manifests for place in result.upstream):
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


def _train(study: Study, result: Result, manifests: Mapping[str, Manifest]) -> str:
    base, *users = (manifests[place] for place in result.upstream)
    count = len(study.users.train)
    return train_fingerprint(result.recipe, base, users[:count], users[count:])


def _predict(_study: Study, result: Result, manifests: Mapping[str, Manifest]) -> str:
    base, *rest = (manifests[place] for place in result.upstream)
    trained = rest.pop(0) if len(rest) > len(result.users) else None
    own = manifests[result.manifest]
    if trained and trained["base_model"] != base["fingerprint"]:
        raise UserError("the training was on another base model")
    # Rows of another experiment or user would have the right fingerprint, which names inputs and not rows.
    if {row["user"] for row in own["predictions"]} != set(result.users):
        raise UserError("it holds other users' rows")
    return predict_fingerprint(result.recipe, model_of(base, trained), rest)


def _score(_study: Study, result: Result, manifests: Mapping[str, Manifest]) -> str:
    data, predictions = (manifests[place] for place in result.upstream)
    answers = answers_of_user(predictions, Path(result.upstream[1]), str(result.experiment), result.users[0])
    return score_fingerprint(result.recipe, samples_digest(data), answers)


def _compare(_study: Study, result: Result, manifests: Mapping[str, Manifest]) -> str:
    return compare_fingerprint(result.recipe, [manifests[place] for place in result.upstream])


def _figure(_study: Study, result: Result, manifests: Mapping[str, Manifest]) -> str:
    tables, *trainings = (manifests[place] for place in result.upstream)
    logs = {training["experiment"]: training["files"]["training_log.csv"] for training in trainings}
    return figure_fingerprint(result.recipe, tables, logs)


def _audit(_study: Study, result: Result, _manifests: Mapping[str, Manifest]) -> str:
    return step_fingerprint(result.recipe, {})


def _report(study: Study, result: Result, manifests: Mapping[str, Manifest]) -> str:
    tables = comparison_place(study)
    figures = [manifests[place] for place in result.upstream if "figures/" in place]
    data = [manifests[place] for place in result.upstream if place.startswith("data/")]
    return report_fingerprint(result.recipe, manifests[tables], figures, data)


_FINGERPRINTS: dict[str, Callable[[Study, Result, Mapping[str, Manifest]], str]] = {
    "prepare": _prepare,
    "base_model": _base_model,
    "train": _train,
    "predict": _predict,
    "score": _score,
    "compare": _compare,
    "figure": _figure,
    "audit": _audit,
    "report": _report,
}
