"""Keys of an experiment for what is made elsewhere: answers of another program, weights of another trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from usertune.core.errors import shown
from usertune.inference.answers_file import USER_FIELD
from usertune.study.schema.base import plain_path

# Keys that say that nothing is trained here.
ELSEWHERE = ("answers",)


def _answers_path(value: str) -> str:
    if value.count(USER_FIELD) > 1:
        raise ValueError(f"{shown(value)} contains {USER_FIELD} twice; once is enough")
    plain_path(value.replace(USER_FIELD, ""))
    return value


AnswersPath = Annotated[str, Field(min_length=1), AfterValidator(_answers_path)]


def elsewhere_problem(experiment: BaseModel, without_effect: Iterable[str]) -> str | None:
    """Say which keys of an experiment contradict that it is made elsewhere; None if none does.

    Args:
        experiment: the experiment.
        without_effect: keys without effect on such an experiment.
    """
    given = made_elsewhere(experiment)
    if not given:
        return None
    if len(given) > 1:
        return f"{' and '.join(given)} exclude each other; keep one of them"
    fields = type(experiment).model_fields
    if others := [key for key in without_effect if getattr(experiment, key) != fields[key].default]:
        return f"an experiment with {given[0]} is not made here; remove {', '.join(others)}"
    return None


def made_elsewhere(experiment: BaseModel | Mapping[str, Any]) -> list[str]:
    """Return the keys of `ELSEWHERE` that an experiment, or its section of a study, sets."""
    read = experiment.get if isinstance(experiment, Mapping) else partial(getattr, experiment)
    return [key for key in ELSEWHERE if read(key) is not None]
