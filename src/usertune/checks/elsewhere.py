"""Sources of experiments that are made elsewhere: their files when jobs are planned, and what changed since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from usertune.core.hashing import digest_file
from usertune.inference.answers_file import check_answers, files_of
from usertune.inference.collect_answers import answers_state, given_digests
from usertune.pipeline import steps
from usertune.pipeline.layout import Result
from usertune.study.schema.study import Study

Manifest = Mapping[str, Any]

# Inputs of a result that are no results, by step and role, computed from its manifest.
OWN_INPUTS = {(steps.PREDICT.name, "answers"): lambda own: given_digests(own["predictions"])}


def check_elsewhere(study: Study) -> None:
    """Check during planning that what experiments take from elsewhere exists and can be used.

    Raises:
        UserError: it cannot; the message names the key of the study and says what to do.
    """
    for name, experiment in study.experiments.items():
        if experiment.answers is not None:
            check_answers(experiment.answers, study.users.test, f"experiments.{name}.answers")


def answer_sources(study: Study, experiment: str, users: Sequence[str]) -> list[str]:
    """Return the files with some users' answers; none for an experiment that is answered here."""
    path = study.experiments[experiment].answers
    return [] if path is None else list(dict.fromkeys(map(str, files_of(path, users).values())))


def sources_state(study: Study, experiment: str, users: Sequence[str]) -> str:
    """Return a digest of sizes and times of the files with some users' answers; empty without any."""
    path = study.experiments[experiment].answers
    return "" if path is None else answers_state(path, users)


def changes_since(study: Study, result: Result, manifest: Manifest) -> Iterator[str]:
    """Yield how files from elsewhere differ from those that a result was made from, by path, size and time."""
    path = _answers_of(study, result)
    if path is not None and answers_state(path, result.users) != manifest["answers_state"]:
        yield "paths, sizes or times of its answers from elsewhere changed since they were read"


def changed_content(study: Study, result: Result, manifest: Manifest) -> Iterator[str]:
    """Yield how the content of files from elsewhere differs from what a result was made from."""
    path = _answers_of(study, result)
    if path is None or answers_state(path, result.users) == manifest["answers_state"]:
        return
    # A copy has other times, but the same content.
    digests = list(manifest["answers_files"].values())
    files = list(dict.fromkeys(files_of(path, result.users).values()))
    for file, recorded in zip(files, digests, strict=True):
        if not file.is_file() or digest_file(file) != recorded:
            yield f"the answers in {file} changed"


def _answers_of(study: Study, result: Result) -> str | None:
    is_prediction = result.step == steps.PREDICT.name and result.experiment
    return study.experiments[str(result.experiment)].answers if is_prediction else None
