"""Whether a result was made from what lies upstream of it now: what the audit asks, and the planner before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.hashing import digest, step_fingerprint
from usertune.evaluation.answers import answers_digest, answers_of_user
from usertune.pipeline import steps
from usertune.pipeline.layout import Result
from usertune.reporting.skipped import skipped_digest

Manifest = Mapping[str, Any]


def not_made_from_upstream(result: Result, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """Yield how a result, which is whole and of today's recipe, does not fit to what it is made from.

    Args:
        result: the result.
        manifests: manifests by path, its own among them. Where one from upstream is missing nothing is said, since
            the result follows it.
    """
    if any(path not in manifests for path in result.upstream):
        return
    own = manifests[result.manifest]
    try:
        if own["fingerprint"] != step_fingerprint(own["recipe"], own["inputs"]):
            yield "its fingerprint is not that of its recipe and inputs"
        elif changed := list(_changed_inputs(result, manifests)):
            yield f"made from something else than {_in_words(changed)} as they are now"
        # Rows of another user would have the right fingerprint, which names inputs and not rows.
        elif result.step == steps.PREDICT.name and {row["user"] for row in own["predictions"]} != set(result.users):
            yield "it holds other users' rows"
    except (KeyError, TypeError, ValueError, UserError) as error:
        yield f"cannot be checked against what it was made from: {error}"


def is_made_from(manifest: Manifest, upstream: Manifest) -> bool:
    """Whether a result may be made from one upstream, as far as the manifests tell without reading anything else."""
    lineage = manifest.get("lineage", {}).get(upstream["step"])
    if isinstance(lineage, Mapping):
        lineage = lineage.get(upstream.get("user"))
    return lineage in (None, upstream["fingerprint"], upstream["output"])


def _changed_inputs(result: Result, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """Yield the paths of results that are others than those that a result was made from."""
    own = manifests[result.manifest]
    inputs: Mapping[str, Any] = own["inputs"]
    if not result.inputs:
        # Of raw data or a base model, which the audit looks at itself.
        if inputs != _SOURCES[result.step](own):
            yield "its own files"
        return
    for role in inputs.keys() | result.inputs.keys():
        paths, recorded = result.inputs.get(role, ()), inputs.get(role, {})
        sees = _SEES.get((result.step, role), _output)
        found = {_name(manifests[path]): (path, sees(manifests[path], path, result)) for path in paths}
        if not isinstance(recorded, Mapping):
            # A role that one result has.
            recorded = dict.fromkeys(found, recorded)
        if (not paths and recorded) or recorded.keys() - found.keys():
            yield f"the {role} that it names"
        yield from (path for name, (path, sha256) in found.items() if recorded.get(name) != sha256)


def _name(manifest: Manifest) -> str:
    """Return the name by which a result that is one of several inputs has its digest."""
    return " ".join(str(manifest[key]) for key in ("experiment", "user", "name") if key in manifest)


def _in_words(paths: list[str]) -> str:
    return f"{len(paths)} of the results that it is made from," if len(paths) > 4 else ", ".join(sorted(paths))


def _output(manifest: Manifest, _path: str, _result: Result) -> str:
    return str(manifest["output"])


def _answers(predictions: Manifest, path: str, result: Result) -> str:
    return answers_digest(answers_of_user(predictions, Path(path), str(result.experiment), result.users[0]))


# What a step takes from an earlier result in a role, where that is not the result's output.
_SEES: dict[tuple[str, str], Callable[[Manifest, str, Result], str]] = {
    (steps.SCORE.name, "answers"): _answers,
    (steps.FIGURE.name, "training_logs"): lambda training, *_: str(training["files"]["training_log.csv"]),
    (steps.REPORT.name, "data"): lambda data, *_: skipped_digest(data),
}
# The inputs of the steps that are made from no other result, from what their manifests say of the files.
_SOURCES: dict[str, Callable[[Manifest], dict[str, str]]] = {
    steps.PREPARE.name: lambda own: {"samples": own["files"][f"user_{own['user']}.jsonl"]},
    steps.BASE_MODEL.name: lambda own: {"model_files": digest(own["model_files"])},
}
