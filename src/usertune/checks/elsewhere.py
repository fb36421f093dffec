"""Sources of experiments that are made elsewhere: their files when jobs are planned, and what changed since."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.hashing import digest, digest_file
from usertune.inference.answers_file import check_answers, files_of
from usertune.inference.collect_answers import answers_state, given_digests
from usertune.models.base_folder import from_record, is_local
from usertune.models.external_weights import OWN_FILES, check_weights, deciding_files, other_base, weights_state
from usertune.models.hub import cached_snapshot
from usertune.pipeline import steps
from usertune.pipeline.layout import Result
from usertune.study.schema.study import Study

logger = logging.getLogger(__name__)

Manifest = Mapping[str, Any]

# Inputs of a result that are no results, by step and role, computed from its manifest.
OWN_INPUTS: dict[tuple[str, str], Callable[[Manifest], Any]] = {
    (steps.PREDICT.name, "answers"): lambda own: given_digests(own["predictions"]),
    (steps.OTHER_WEIGHTS.name, OWN_FILES): lambda own: digest(own["weights_files"]),
}


def check_elsewhere(study: Study) -> None:
    """Check during planning that what experiments take from elsewhere exists and can be used.

    Raises:
        UserError: it cannot; the message names the keys of the study and says what to do.
    """
    problems = []
    for name, experiment in study.experiments.items():
        key = f"experiments.{name}"
        try:
            if experiment.answers is not None:
                check_answers(experiment.answers, study.answered_users(name), f"{key}.answers")
            if experiment.weights is not None:
                folder = Path(experiment.weights).expanduser()
                trained_on = check_weights(folder, experiment.mode, _base_folder(study), f"{key}.weights")
                if warning := other_base(trained_on, study.base_model.path):
                    logger.warning("%s.weights: %s", key, warning)
        except UserError as problem:
            problems.append(str(problem))
    if problems:
        raise UserError("\n".join(problems))


def _base_folder(study: Study) -> Path | None:
    """Return the folder of the base model; None for a hub name without a copy here."""
    path = study.base_model.path
    if is_local(path):
        return Path(path).expanduser()
    return cached_snapshot(path, study.base_model.revision, os.environ)


def answer_sources(study: Study, experiment: str, users: Sequence[str]) -> list[str]:
    """Return the files with some users' answers; none for an experiment that is answered here."""
    path = study.experiments[experiment].answers
    return [] if path is None else list(dict.fromkeys(map(str, files_of(path, users).values())))


def weight_sources(study: Study, experiment: str) -> list[str]:
    """Return the files of an experiment's weights from elsewhere; none for other experiments."""
    own = study.experiments[experiment]
    if own.weights is None:
        return []
    folder = Path(own.weights).expanduser()
    return [str(folder / name) for name in deciding_files(folder, own.mode)]


def sources_state(study: Study, experiment: str, users: Sequence[str] = ()) -> str:
    """Return a digest of sizes and times of an experiment's files from elsewhere; empty without any.

    Args:
        study: the study.
        experiment: the experiment.
        users: whose answers; weights are the same for all.
    """
    own = study.experiments[experiment]
    if own.answers is not None:
        return answers_state(own.answers, users)
    return "" if own.weights is None else weights_state(own.weights, own.mode)


def changes_since(study: Study, result: Result, manifest: Manifest, path: Path) -> Iterator[str]:
    """Yield how files from elsewhere differ from those that a result was made from, by path, size and time.

    Args:
        study: the study.
        result: the result.
        manifest: its manifest.
        path: path of the manifest.
    """
    kind = _kind(study, result)
    if kind == "answers" and sources_state(study, str(result.experiment), result.users) != manifest["answers_state"]:
        yield "paths, sizes or times of its answers from elsewhere changed since they were read"
    elif kind == "weights":
        if sources_state(study, str(result.experiment)) != digest(manifest["weights_state"]):
            yield "sizes or times of the weights' files changed since they were read"
        folder = Path(str(study.experiments[str(result.experiment)].weights)).expanduser()
        if from_record(manifest["weights_folder"], path).resolve() != folder.resolve():
            yield "the weights are in another folder now"


def changed_content(study: Study, result: Result, manifest: Manifest) -> Iterator[str]:
    """Yield how the content of files from elsewhere differs from what a result was made from."""
    kind = _kind(study, result)
    if kind == "answers":
        # A copy has other times, but the same content.
        if sources_state(study, str(result.experiment), result.users) == manifest["answers_state"]:
            return
        files = answer_sources(study, str(result.experiment), result.users)
        recorded = list(manifest["answers_files"].values())
    elif kind == "weights":
        if sources_state(study, str(result.experiment)) == digest(manifest["weights_state"]):
            return
        files = weight_sources(study, str(result.experiment))
        recorded = [manifest["weights_files"].get(Path(file).name) for file in files]
    else:
        return
    for file, sha256 in zip(files, recorded, strict=True):
        if not Path(file).is_file() or digest_file(file) != sha256:
            yield f"{file}, from elsewhere, changed"


def _kind(study: Study, result: Result) -> str | None:
    """Return what a result is made from that comes from elsewhere: answers, weights or None."""
    if result.experiment is None:
        return None
    own = study.experiments[result.experiment]
    if result.step == steps.PREDICT.name and own.answers is not None:
        return "answers"
    return "weights" if result.step == steps.OTHER_WEIGHTS.name and own.weights is not None else None
