"""The answers of one user, from the predictions of a batch of users."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from usertune.core.errors import UserError
from usertune.core.hashing import digest

REMAKE_PREDICTIONS = "delete the predictions file and run snakemake to make it again"


class Answer(NamedTuple):
    """The text that a model answered, and whether it ended by itself or was cut off at the length limit."""

    text: str
    ended: bool = True


def answers_of_user(predictions: Mapping[str, Any], path: Path, experiment: str, user: str) -> dict[str, Answer]:
    """Return ``{sample id: answer}`` of one user, sorted by id.

    Raises:
        UserError: the predictions are of another experiment or lack the user, or a row is malformed or occurs twice.
    """
    if predictions.get("experiment") != experiment:
        raise UserError(
            f"{path}: these are predictions of experiment {predictions.get('experiment')!r}, not {experiment!r}; "
            "give the file of that experiment"
        )
    if user not in (predictions.get("users") or []):
        raise UserError(f"{path}: holds users {predictions.get('users')!r}, not {user!r}; give that user's batch")
    answers: dict[str, Answer] = {}
    for prediction in _rows_by_user(predictions, path).get(user, ()):
        identity, text = prediction["id"], prediction["text"]
        if not isinstance(text, str):
            raise UserError(f"{path}: sample {identity!r}: text is {text!r}, not a string; {REMAKE_PREDICTIONS}")
        if identity in answers:
            raise UserError(f"{path}: sample {identity!r} was predicted twice; {REMAKE_PREDICTIONS}")
        answers[identity] = Answer(text, prediction.get("stopped") is not False)
    return dict(sorted(answers.items()))


# The rows of one manifest, by user: a batch is asked for one user after another.
_grouped: tuple[Any, dict[str, list[Mapping[str, Any]]]] = (None, {})


def _rows_by_user(predictions: Mapping[str, Any], path: Path) -> dict[str, list[Mapping[str, Any]]]:
    global _grouped
    given = predictions.get("predictions") or []
    if _grouped[0] is not given:
        rows: dict[str, list[Mapping[str, Any]]] = {}
        for number, row in enumerate(given):
            if not isinstance(row, Mapping) or not {"user", "id", "text"} <= row.keys():
                raise UserError(f"{path}: predictions[{number}] lacks user, id or text; {REMAKE_PREDICTIONS}")
            rows.setdefault(row["user"], []).append(row)
        _grouped = given, rows
    return _grouped[1]


def answers_digest(answers: Mapping[str, Answer]) -> str:
    """Return the digest of one user's answers: all that a score sees of the predictions of a batch."""
    return digest(dict(answers))
