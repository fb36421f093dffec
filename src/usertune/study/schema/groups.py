"""Groups of experiments: in which keys their experiments differ, and mistakes in `select`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from usertune.study.files import KeyPath
from usertune.study.schema.experiment import Experiment
from usertune.study.schema.users import Users

SEED: KeyPath = ("training", "seed")
OF_GROUPS = ("group", "select")


def settings_of(experiments: Mapping[str, Experiment]) -> dict[str, dict[str, Any]]:
    """Return the setting of each experiment of a group: the keys whose values differ between them, without the seed.

    The places of a matrix of adapters are repetitions, as seeds are.
    """
    repeated = {SEED, *([("shift",)] if all(value.assign == "matrix" for value in experiments.values()) else [])}
    flat = {name: dict(_flat(value.model_dump(mode="json"))) for name, value in experiments.items()}
    keys = dict.fromkeys(
        key for values in flat.values() for key in values if key not in repeated and key[0] not in OF_GROUPS
    )
    differ = [key for key in keys if len({repr(values.get(key)) for values in flat.values()}) > 1]
    return {name: {".".join(key): values[key] for key in differ if key in values} for name, values in flat.items()}


def answers_test_users_only(experiment: Experiment) -> bool:
    """Whether an experiment's weights are trained on samples of test users, so that it can answer nobody else."""
    return experiment.trained_on_folds or experiment.adapters_of is not None


def problems_of_groups(
    experiments: Mapping[str, Experiment], groups: Mapping[str, tuple[str, ...]], users: Users
) -> Iterator[tuple[KeyPath, str]]:
    """Yield (key, text) for every mistake in ``select``."""
    for name, experiment in experiments.items():
        key, asked = ("experiments", name, "select"), experiment.select
        if asked is None:
            continue
        if experiment.group is None:
            yield key, "the experiment is in no group; remove this key, or add sweep or group"
        elif any(experiments[other].select != asked for other in groups[experiment.group]):
            yield (
                key,
                f"the experiments of the group {experiment.group} have different values; use one",
            )
        elif asked == "loss" and not experiment.trained:
            yield key, "the experiment has no validation loss, because it is not trained on training users"
        elif asked == "loss" and not users.validation:
            yield key, "users.validation is empty, and the best setting is chosen by the validation loss; add users"
        elif asked == "accuracy" and (problem := _accuracy_problem(experiment, users)):
            yield key, problem


def _accuracy_problem(experiment: Experiment, users: Users) -> str | None:
    if answers_test_users_only(experiment):
        return (
            "accuracy: these weights are trained on samples of the test users themselves, so they say nothing of "
            "validation users; set select: none, or choose the setting in an experiment of scope global"
        )
    if not users.validation:
        return "users.validation is empty, and the best setting is chosen by the answers for these users; add users"
    if experiment.context is not None and experiment.context.of == "other_user" and len(users.validation) < 2:
        return (
            "accuracy: users.validation has one user, and context.of: other_user needs another one; add a user, or set "
            "select: none"
        )
    return None


def _flat(values: Mapping[str, Any], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, (*prefix, key))
        else:
            yield (*prefix, key), value
