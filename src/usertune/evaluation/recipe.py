"""The recipes of scores and of their comparison, and the design that comparison, figures and report share."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from usertune.core.recipe import Recipe, Settings
from usertune.tasks.catalogue import get_task
from usertune.tasks.metrics import Metric, at_thresholds, threshold_label


def _each_once(thresholds: tuple[float, ...]) -> tuple[float, ...]:
    if len({threshold_label(value) for value in thresholds}) < len(thresholds):
        raise ValueError(f"{list(thresholds)} names a distance twice; keep it once")
    return thresholds


Thresholds = Annotated[
    tuple[Annotated[float, Field(gt=0, strict=True)], ...], Field(min_length=1), AfterValidator(_each_once)
]
"""Distances in the 0-1000 space within which a click counts; the first is the primary one."""


class Measured(Recipe):
    """A recipe of results that are measured."""

    code: str = ""
    """Version of the code of the step."""
    task: str
    """What the model is asked for."""
    thresholds: Thresholds

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of the task at the thresholds, the primary one first.

        Raises:
            UserError: there is no such task.
        """
        return at_thresholds(get_task(self.task).metrics, self.thresholds)


class ScoreRecipe(Measured):
    """How the answers for one user are measured."""


class Experiment(Settings):
    """A named row of the study and how its model was made (``vanilla``, ``lora``, ``full``)."""

    name: str
    mode: str


class ComparisonDesign(Measured):
    """What is compared: the experiments and test users of a study, both in the study's order."""

    experiments: Annotated[tuple[Experiment, ...], Field(min_length=1)]
    users: Annotated[tuple[str, ...], Field(min_length=1)]

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
    def baseline(self) -> str | None:
        """The first experiment of mode vanilla, which the others are compared with; None if there is none."""
        return next((item.name for item in self.experiments if item.mode == "vanilla"), None)


class CompareRecipe(ComparisonDesign):
    """What the tables compare, and at which level of confidence."""

    study_sha256: str | None = None
    """Digest of what the study says about its numbers."""
    confidence: Annotated[float, Field(gt=0, lt=1, strict=True)]
    """Level of the intervals, such as 0.95."""
