"""Keys of an experiment for what is made elsewhere: answers of another program, weights of another trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from usertune.core.errors import shown
from usertune.inference.answers_file import USER_FIELD
from usertune.study.files import KeyPath
from usertune.study.schema.base import ConfigModel, plain_path

# Keys with paths of what is made elsewhere.
ELSEWHERE = ("answers", "weights")
# Keys that say that an experiment is not trained.
NOT_TRAINED = (*ELSEWHERE, "checkpoint")


def _answers_path(value: str) -> str:
    if value.count(USER_FIELD) > 1:
        raise ValueError(f"{shown(value)} contains {USER_FIELD} twice; once is enough")
    plain_path(value.replace(USER_FIELD, ""))
    return value


AnswersPath = Annotated[str, Field(min_length=1), AfterValidator(_answers_path)]


class CheckpointOf(ConfigModel):
    """Weights of an earlier step of another experiment."""

    of: str
    """Name of a trained experiment, whose ``training.keep_checkpoints`` names the step."""
    step: Annotated[int, Field(gt=0)]
    """Optimizer step."""


def elsewhere_problem(experiment: BaseModel, without_effect: Iterable[str]) -> str | None:
    """Say which keys of an experiment contradict that it is made elsewhere; None if none does.

    Args:
        experiment: the experiment.
        without_effect: keys without effect on such an experiment.
    """
    given = made_elsewhere(experiment, NOT_TRAINED)
    if not given:
        return None
    if len(given) > 1:
        return f"{' and '.join(given)} exclude each other; keep one of them"
    fields = type(experiment).model_fields
    if others := [key for key in without_effect if getattr(experiment, key) != fields[key].default]:
        return f"an experiment with {given[0]} does not train; remove {', '.join(others)}"
    return None


def made_elsewhere(experiment: BaseModel | Mapping[str, Any], keys: Sequence[str] = ELSEWHERE) -> list[str]:
    """Return those keys that an experiment, or its section of a study, sets."""
    read = experiment.get if isinstance(experiment, Mapping) else partial(getattr, experiment)
    return [key for key in keys if read(key) is not None]


def checkpoint_problem(name: str, experiments: Mapping[str, Any]) -> tuple[KeyPath, str] | None:
    """Say why the ``checkpoint`` of an experiment cannot exist, with the key; None if it can.

    Args:
        name: the experiment.
        experiments: all experiments of the study.
    """
    own = experiments[name]
    key: KeyPath = ("experiments", name, "checkpoint")
    other = experiments.get(own.checkpoint.of)
    trained = [known for known, experiment in experiments.items() if experiment.trained]
    if other is None or not other.trained:
        listed = f"one of: {', '.join(trained)}" if trained else "one that is trained; this study trains none"
        return (*key, "of"), f"{shown(own.checkpoint.of)} is no trained experiment; name {listed}"
    if other.mode != own.mode:
        return key, f"{own.checkpoint.of} has mode {other.mode}, so write mode: {other.mode}"
    kept = sorted(other.training.keep_checkpoints)
    if own.checkpoint.step not in kept:
        there = f"it keeps the steps {', '.join(map(str, kept))}" if kept else "it keeps none"
        return (
            (*key, "step"),
            f"{own.checkpoint.of} does not keep step {own.checkpoint.step} ({there}); add it to its "
            "training.keep_checkpoints",
        )
    return None
