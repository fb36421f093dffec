"""The recipes of scores and of their comparison, and the design that comparison, figures and report share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from usertune.core.recipe import Recipe, Settings
from usertune.data.folds import FoldSettings
from usertune.tasks.catalogue import TASKS, get_task
from usertune.tasks.metrics import Metric, at_thresholds, of_further_task, threshold_label


def _each_once(thresholds: tuple[float, ...]) -> tuple[float, ...]:
    if len({threshold_label(value) for value in thresholds}) < len(thresholds):
        raise ValueError(f"{list(thresholds)} names a distance twice; keep it once")
    return thresholds


Thresholds = Annotated[
    tuple[Annotated[float, Field(gt=0, strict=True)], ...], Field(min_length=1), AfterValidator(_each_once)
]
"""Distances in the 0-1000 space within which a click counts; the first is the primary one."""


def measured(tasks: Sequence[str], thresholds: Sequence[float], primary: str | None = None) -> tuple[Metric, ...]:
    """Return the metrics of a study, the primary one first.

    Args:
        tasks: the dataset's task, then the further ones that measure the same answers.
        thresholds: see `Thresholds`.
        primary: name of the primary metric; None: the first of the dataset's task.

    Raises:
        UserError: there is no such task.
        ValueError: two tasks have metrics of one name, or the primary one cannot be it; see `at_thresholds`.
    """
    further = [metric for task in tasks[1:] for metric in of_further_task(get_task(task).metrics, task)]
    return at_thresholds([*get_task(tasks[0]).metrics, *further], thresholds, primary)


class Measured(Recipe):
    """A recipe of results that are measured."""

    code: str = ""
    """Version of the code of the step."""
    task: str
    """What the model is asked for."""
    further_tasks: tuple[str, ...] = ()
    """Further tasks that read and measure the same answers."""
    thresholds: Thresholds

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task, then the further ones."""
        return (self.task, *self.further_tasks)

    @property
    def task_modules(self) -> tuple[str, ...]:
        """The modules of the tasks, for code versions.

        Raises:
            UserError: there is no such task.
        """
        return tuple(TASKS.module(task) for task in self.tasks)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of the tasks at the thresholds, the primary one first; see `measured`."""
        return measured(self.tasks, self.thresholds)


# The scope of experiments that together answer each user by the adapters of every other one.
MATRIX = "matrix"


class ScoreRecipe(Measured):
    """How the answers for one user are measured."""

    folds: FoldSettings | None = None
    """The folds of the user's samples, which are a column of the rows; None: no such column."""


class Experiment(Settings):
    """A named row of the study and how its model was made (``vanilla``, ``lora``, ``full``)."""

    name: str
    mode: str
    scope: str = "global"
    """Who shares the weights: all test users (``global``), or see ``scope`` and ``assign`` of a study's experiment."""
    group: str | None = None
    """Name of the group that it belongs to, such as that of a sweep."""
    setting: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
    """The keys whose values differ between the experiments of the group, except the seed -> its value."""

    @property
    def kind(self) -> str:
        """Mode and, unless all users share the weights, scope, for people."""
        scope = "swapped" if self.scope == MATRIX else self.scope
        return self.mode if scope == "global" else f"{self.mode}, {scope}"


def setting_in_words(setting: Mapping[str, Any]) -> str:
    """Return a setting as ``learning_rate 1e-05, rank 8``; keys with the same end are written out."""
    ends = [key.rsplit(".", 1)[-1] for key in setting]
    names = [end if ends.count(end) == 1 else key for key, end in zip(setting, ends, strict=True)]
    return ", ".join(f"{name} {value}" for name, value in zip(names, setting.values(), strict=True))


class ComparisonDesign(Measured):
    """What is compared: the experiments and test users of a study, both in the study's order."""

    experiments: Annotated[tuple[Experiment, ...], Field(min_length=1)]
    users: Annotated[tuple[str, ...], Field(min_length=1)]
    primary: str | None = None
    """Name of the primary metric; None: the first of the task."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of the tasks at the thresholds, the primary one first; see `measured`."""
        return measured(self.tasks, self.thresholds, self.primary)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, values in (("experiments", self.names), ("users", list(self.users))):
            if len(set(values)) < len(values):
                raise ValueError(f"{key} is {values}; name each once")
        return self

    @property
    def names(self) -> list[str]:
        """The names of the experiments."""
        return [experiment.name for experiment in self.experiments]

    @property
    def groups(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Group -> setting in words -> its experiments, which differ by the seed alone; in the study's order."""
        found: dict[str, dict[str, tuple[str, ...]]] = {}
        for item in self.experiments:
            if item.group is not None:
                settings = found.setdefault(item.group, {})
                text = setting_in_words(item.setting)
                settings[text] = (*settings.get(text, ()), item.name)
        return found

    @property
    def matrix_groups(self) -> tuple[str, ...]:
        """The groups whose experiments are a matrix of adapters: each user is answered by those of every other one."""
        return tuple(
            dict.fromkeys(item.group for item in self.experiments if item.scope == MATRIX and item.group is not None)
        )

    @property
    def baseline(self) -> str | None:
        """The first experiment of mode vanilla, which the others are compared with; None if there is none."""
        return next((item.name for item in self.experiments if item.mode == "vanilla"), None)


class AdapterMatrix(Settings):
    """Whose adapters answered whom."""

    own: str
    """The experiment in which each user is answered by their own adapters."""
    owners: dict[str, dict[str, str]]
    """Experiment -> test user -> the user whose adapters answered."""


class CompareRecipe(ComparisonDesign):
    """What the tables compare, and at which level of confidence."""

    study_sha256: str | None = None
    """Digest of what the study says about its numbers."""
    confidence: Annotated[float, Field(gt=0, lt=1, strict=True)]
    """Level of the intervals, such as 0.95."""
    select: dict[str, Literal["loss", "accuracy"]] = {}  # noqa: RUF012 (pydantic copies it)
    """Group -> what chooses its best setting; the settings of other groups are not ranked."""
    validation_users: tuple[str, ...] = ()
    """The users whose answers choose the setting of groups that are selected by accuracy."""
    matrices: dict[str, AdapterMatrix] = {}  # noqa: RUF012 (pydantic copies it)
    """Group -> the matrix of adapters that its experiments are."""
    comparisons: tuple[tuple[str, str], ...] = ()
    """The comparisons of the study's hypothesis: (experiment or group, the one that it is compared with)."""
