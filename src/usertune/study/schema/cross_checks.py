"""Checks that need several sections of a study, or several experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from usertune.core.step_names import ALL, CHECK, PREDICT_FROM_STORE, PREDICT_PRIOR, READ_ANSWERS, STEP_NAMES
from usertune.evaluation.recipe import measured
from usertune.study.files import KeyPath
from usertune.study.schema.controls import problems_of_controls
from usertune.study.schema.elsewhere import checkpoint_problem
from usertune.study.schema.groups import answers_test_users_only, problems_of_groups
from usertune.study.schema.report import FIGURE_NAMES
from usertune.study.schema.scopes import scope_problems

if TYPE_CHECKING:
    from usertune.study.schema.study import Study

Problems = Iterator[tuple[KeyPath, str]]

# Experiments are workflow targets, as steps and other rules are; "data" is reserved too.
RESERVED_EXPERIMENT_NAMES = frozenset(
    {*STEP_NAMES, ALL, CHECK, PREDICT_FROM_STORE, PREDICT_PRIOR, READ_ANSWERS, "data"}
)


def problems_between_sections(study: Study) -> list[tuple[KeyPath, str]]:
    """Return the key and the text of each problem that the first check with problems finds.

    Later checks need what the earlier ones ensure, such as names of experiments that exist.
    """
    return next(filter(None, (list(check(study)) for check in _IN_ORDER)), [])


def _experiments(study: Study) -> Problems:
    for name, experiment in study.experiments.items():
        if name in RESERVED_EXPERIMENT_NAMES:
            yield ("experiments", name), f"{name!r} is the name of a workflow step; choose another name"
        if experiment.checkpoint is not None and (problem := checkpoint_problem(name, study.experiments)):
            yield problem
        if experiment.trained and not study.users.train:
            yield ("users",), f"train is empty, but experiment {name!r} needs training users"
        training = experiment.training if experiment.trained else None
        if training and not study.users.validation and (training.keep == "best" or training.early_stopping):
            key = "keep: best" if training.keep == "best" else f"early_stopping: {training.early_stopping}"
            yield (
                ("users",),
                f"validation is empty, but experiment {name!r} has {key}, which needs a validation loss; "
                "add validation users, or remove the key",
            )


def _names_of_groups(study: Study) -> Problems:
    for name in study.groups:
        if name in study.experiments or name in RESERVED_EXPERIMENT_NAMES:
            other = "an experiment" if name in study.experiments else "a workflow step"
            yield ("experiments", name), f"the group {name!r} has the name of {other}; choose another name"


def _groups(study: Study) -> Problems:
    yield from problems_of_groups(study.experiments, study.groups, study.users)


def _hypothesis(study: Study) -> Problems:
    # A group without a chosen setting is no single thing that could be compared.
    unclear = {group for group in study.groups if study.has_several_settings(group) and study.selection(group) is None}
    known = [*study.experiments, *(group for group in study.groups if group not in unclear)]
    for index, pair in enumerate(study.comparisons):
        for name in pair:
            if name in unclear:
                able = not any(map(answers_test_users_only, (study.experiments[own] for own in study.groups[name])))
                trained = all(study.experiments[own].trained for own in study.groups[name])
                how = "select: loss or select: accuracy" if trained else "select: accuracy"
                text = (
                    f"{name} has several settings, and none of them is chosen; "
                    f"{f'add validation users and {how}, or ' if able else ''}"
                    f"name one of its experiments: {', '.join(study.groups[name])}"
                )
                yield ("hypothesis", "comparisons", str(index)), text
            elif name not in known:
                text = f"there is no experiment or group {name!r}; use one of: {', '.join(known)}"
                yield ("hypothesis", "comparisons", str(index)), text


def _metrics(study: Study) -> Problems:
    asked, task = study.evaluation, study.dataset.task
    tasks = (task, *asked.further_tasks)
    if repeated := next((name for name in tasks if tasks.count(name) > 1), None):
        text = f"{repeated} is listed twice, or is dataset.task; name each task once"
        yield ("evaluation", "further_tasks"), text
    # Tasks are imported for this only where the study says something that can be wrong.
    elif asked.primary is not None or asked.further_tasks:
        try:
            measured(tasks, asked.thresholds, asked.primary)
        except ValueError as error:
            yield ("evaluation", "primary" if asked.primary is not None else "further_tasks"), str(error)


def _scopes(study: Study) -> Problems:
    for name, key, problem in scope_problems(study):
        yield ("experiments", name, key), problem


def _coloured_experiments(study: Study) -> Problems:
    for figure in FIGURE_NAMES:
        for name in getattr(study.report.figures, figure).colours:
            if name not in study.experiments:
                text = f"no such experiment; use one of: {', '.join(study.experiments)}"
                yield ("report", "figures", figure, "colours", name), text


def _controls(study: Study) -> Problems:
    for name, experiment in study.experiments.items():
        for key, problem in problems_of_controls(experiment, study.users, study.folds, study.dataset.task):
            yield ("experiments", name, key), problem


def _engines(study: Study) -> Problems:
    for name, experiment in study.experiments.items():
        if experiment.generated:
            options = study.engine_of(name).options
            if problem := options.problem(experiment.mode, _mode_of_start(study, name)):
                yield ("experiments", name, "engine"), problem


def _share_base(study: Study) -> Problems:
    if study.evaluation.share_base and not study.sharing:
        text = (
            "no two prediction jobs can share a base model: that takes two experiments of mode lora with the "
            "engine transformers and the same max_new_tokens and start_from, or one with more test users than "
            "users_per_job; remove the key"
        )
        yield ("evaluation", "share_base"), text


def _mode_of_start(study: Study, name: str) -> str | None:
    start = study.start_of(name)
    return None if start is None else study.experiments[start].mode


_IN_ORDER: tuple[Callable[[Study], Problems], ...] = (
    _experiments,
    _names_of_groups,
    _groups,
    _hypothesis,
    _metrics,
    _scopes,
    _coloured_experiments,
    _controls,
    _engines,
    _share_base,
)
