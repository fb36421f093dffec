"""Checks whether a result was made from its current inputs; used by the planner and the audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from usertune.checks.elsewhere import OWN_INPUTS
from usertune.core.errors import UserError
from usertune.core.hashing import digest, step_fingerprint
from usertune.core.manifest import name_among_inputs
from usertune.evaluation.answers import answers_digest, answers_of_user
from usertune.pipeline import steps
from usertune.pipeline.layout import Result
from usertune.reporting.skipped import skipped_digest

Manifest = Mapping[str, Any]


def not_made_from_upstream(result: Result, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """Yield how a valid result with the current recipe does not match its inputs.

    Args:
        result: the result.
        manifests: path -> manifest, including its own. If an input is missing, nothing is yielded, because the result
            is made again anyway.
    """
    if any(path not in manifests for path in result.upstream):
        return
    own = manifests[result.manifest]
    try:
        if own["fingerprint"] != step_fingerprint(own["recipe"], own["inputs"]):
            yield "its fingerprint does not match its recipe and inputs"
        elif changed := list(_changed_inputs(result, manifests)):
            yield f"made from other versions of {_in_words(changed)}"
        # The fingerprint covers inputs, not rows, so it would not detect rows of another user.
        elif result.step == steps.PREDICT.name and {row["user"] for row in own["predictions"]} != set(result.users):
            yield "it contains rows of other users"
    except (KeyError, TypeError, ValueError, UserError) as error:
        yield f"cannot be checked against its inputs: {error}"


def is_made_from(manifest: Manifest, upstream: Manifest) -> bool:
    """Whether, judging by the manifests alone, a result may be made from an upstream result."""
    lineage = manifest.get("lineage", {}).get(upstream["step"])
    if upstream["step"] == steps.TRAIN_FOLDS.name and isinstance(lineage, Mapping):
        # By the users that they answer, who may be others than those they were trained on.
        return upstream["fingerprint"] in lineage.values()
    if isinstance(lineage, Mapping):
        lineage = lineage.get(upstream.get("user"))
    return lineage in (None, upstream["fingerprint"], upstream["output"])


def _changed_inputs(result: Result, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """Yield the inputs of a result that differ from those it was made from."""
    own = manifests[result.manifest]
    inputs: Mapping[str, Any] = own["inputs"]
    if not result.inputs:
        # Made from raw data or a base model, which the audit checks separately.
        if inputs != _SOURCES[result.step](own):
            yield "its own files"
        return
    for role in inputs.keys() | result.inputs.keys():
        paths, recorded = result.inputs.get(role, ()), inputs.get(role, {})
        if not paths and (computed := OWN_INPUTS.get((result.step, role))):
            if computed(own) != recorded:
                yield f"the {role} in it"
            continue
        sees = _SEES.get((result.step, role), _output)
        found = {name_among_inputs(manifests[path]): (path, sees(manifests[path], path, result)) for path in paths}
        if not isinstance(recorded, Mapping):
            # A role with a single result.
            recorded = dict.fromkeys(found, recorded)
        if (not paths and recorded) or recorded.keys() - found.keys():
            yield f"the {role} that it records"
        yield from (path for name, (path, sha256) in found.items() if recorded.get(name) != sha256)


def _in_words(paths: list[str]) -> str:
    return f"{len(paths)} of its inputs" if len(paths) > 4 else ", ".join(sorted(paths))


def _output(manifest: Manifest, _path: str, _result: Result) -> str:
    return str(manifest["output"])


def _answers(predictions: Manifest, path: str, result: Result) -> str:
    return answers_digest(answers_of_user(predictions, Path(path), str(result.experiment), result.users[0]))


# What a step uses of an earlier result, if not its output.
_SEES: dict[tuple[str, str], Callable[[Manifest, str, Result], str]] = {
    (steps.SCORE.name, "answers"): _answers,
    (steps.OTHER_WEIGHTS.name, "training"): lambda training, _, result: str(
        training["kept"][str(result.recipe["kept_step"])]["fingerprint"]
    ),
    (steps.FIGURE.name, "training_logs"): lambda training, *_: "".join(map(str, training["files"].values())),
    (steps.REPORT.name, "data"): lambda data, *_: skipped_digest(data),
}
# Inputs of the steps without earlier steps, computed from their manifests.
_SOURCES: dict[str, Callable[[Manifest], dict[str, str]]] = {
    steps.PREPARE.name: lambda own: {"samples": own["files"][f"user_{own['user']}.jsonl"]},
    steps.BASE_MODEL.name: lambda own: {"model_files": digest(own["model_files"])},
}
