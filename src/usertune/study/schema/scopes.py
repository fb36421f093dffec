"""Checks of experiments that are trained on folds of the test users' own samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from usertune.study.schema.shared_training import like_problem

if TYPE_CHECKING:
    from usertune.study.schema.experiment import Experiment
    from usertune.study.schema.study import Study


def scope_problems(study: Study) -> Iterator[tuple[str, str, str]]:
    """Yield what is wrong with the scopes of a study's experiments, as (experiment, key, problem)."""
    for name, experiment in study.experiments.items():
        if experiment.like is not None and (problem := like_problem(study.experiments, name)):
            yield name, "like", problem
        if experiment.adapters_of is not None and (found := _adapters_problem(study, experiment)):
            yield name, *found
        if not experiment.trained_on_folds:
            continue
        if study.folds is None:
            yield (
                name,
                "scope",
                f"{experiment.scope} needs folds of each test user's samples; add to the study: "
                "folds: {count: 3, by: episode}",
            )
        training = experiment.training
        if training and (training.keep == "best" or training.early_stopping):
            key = "keep: best" if training.keep == "best" else "early_stopping"
            yield (
                name,
                "training",
                f"{key} needs a validation loss, and trainings on folds have no validation samples; set keep: last "
                "and early_stopping: null for this experiment",
            )
        if training and training.keep_checkpoints:
            yield (
                name,
                "training",
                "keep_checkpoints: trainings on folds keep only their last weights; set keep_checkpoints: [] for this "
                "experiment",
            )
        if experiment.start_from is not None and (problem := _start_problem(study, experiment.start_from)):
            yield name, "start_from", problem


def _adapters_problem(study: Study, experiment: Experiment) -> tuple[str, str] | None:
    other, users = experiment.adapters_of, len(study.users.test)
    if other not in study.experiments:
        return "adapters_of", f"no experiment is named {other}; use one of: {', '.join(study.experiments)}"
    named = study.experiments[other]
    if not named.trained_on_folds or named.scope != "personal" or named.mode != "lora":
        return "adapters_of", f"experiment {other} has no adapters for each user; name one of mode lora, scope personal"
    if experiment.assign == "matrix" and (problem := _matrix_problem(study, experiment)):
        return "assign", problem
    if experiment.shift % users == 0:
        return (
            "shift",
            f"{experiment.shift} places on, each of the {users} test users has their own adapters",
        )
    return None


def _matrix_problem(study: Study, experiment: Experiment) -> str | None:
    users = len(study.users.test)
    if users < 2:
        return "matrix: there is no other user, because users.test has one; add test users, or remove the experiment"
    own = [other for other in study.experiments.values() if other.group == experiment.group]
    alike = all((other.assign, other.adapters_of) == ("matrix", experiment.adapters_of) for other in own)
    if not alike or sorted(other.shift for other in own) != list(range(1, users)):
        return (
            f"matrix: the group {experiment.group} does not have each shift from 1 to {users - 1} once; write one "
            "experiment with assign: matrix and without shift and group, which stands for all of them"
        )
    return None


def _start_problem(study: Study, start: str) -> str | None:
    if start not in study.experiments:
        return f"no experiment is named {start}; use one of: {', '.join(study.experiments)}"
    other = study.experiments[start]
    if other.trained_on_folds:
        return (
            f"experiment {start} has scope {other.scope}, so it has no weights that all test users share; name one of "
            "scope global"
        )
    if other.mode != "vanilla" and not other.trained:
        return f"experiment {start} is not trained by this study; name an experiment of mode vanilla, lora or full"
    return None
