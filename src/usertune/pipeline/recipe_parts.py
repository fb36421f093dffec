"""What several recipes say alike: parts of a study as their keys, and the settings of a training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from usertune.core.hashing import KEPT_STEPS, digest
from usertune.core.users import format_users
from usertune.models.recipe import Pixels
from usertune.study.files import SPLITS
from usertune.study.schema.experiment import Experiment
from usertune.study.schema.study import Study
from usertune.training.recipe import Execution, TrainingSettings, TrainRecipe
from usertune.training.tracking import TRACKERS, Tracking

# `training` keys that change speed or fault tolerance, but only the last digits of results (docs/reproducibility.md).
_EXECUTION_KEYS = frozenset(Execution.model_fields) - {"tracking"}


@dataclass(frozen=True)
class RecipeParts:
    """Parts of a study as recipes have them. What is not set is left out, so that other recipes do not change.

    Args:
        study: the study.
    """

    study: Study

    @cached_property
    def splits(self) -> dict[str, str]:
        """Split -> its users in the short notation."""
        return {split: format_users(getattr(self.study.users, split)) for split in SPLITS}

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """What decides the numbers of tables and figures, besides `choices`."""
        return {"confidence": self.study.evaluation.confidence, **self.design}

    @cached_property
    def design(self) -> dict[str, Any]:
        """The experiments, users and measures that are compared."""
        study = self.study
        return {
            "experiments": [
                {
                    "name": name,
                    "mode": value.mode,
                    **({} if value.whose_weights == "global" else {"scope": value.whose_weights}),
                    **self._group_of(name),
                }
                for name, value in study.experiments.items()
            ],
            "users": list(study.users.test),
            "task": study.dataset.task,
            **self.further_tasks,
            "thresholds": list(study.evaluation.thresholds),
            **({"primary": study.evaluation.primary} if study.evaluation.primary else {}),
        }

    def _group_of(self, name: str) -> dict[str, Any]:
        """Return the group and setting of an experiment; empty if it is in no group."""
        group = self.study.experiments[name].group
        return {} if group is None else {"group": group, "setting": self.study.settings(group)[name]}

    @cached_property
    def hypothesis(self) -> dict[str, Any]:
        """The hypothesis; empty unless the study has one."""
        hypothesis = self.study.hypothesis
        if hypothesis is None:
            return {}
        return {"hypothesis": hypothesis.text, **({"has_comparisons": True} if hypothesis.comparisons else {})}

    @cached_property
    def price(self) -> dict[str, Any]:
        """The price of a GPU hour; empty unless the study has one."""
        price = self.study.report.price_per_gpu_hour
        return {} if price is None else {"price_per_gpu_hour": price.model_dump()}

    @cached_property
    def choices(self) -> dict[str, Any]:
        """What chooses settings, and what is compared; empty unless the study has groups or a hypothesis."""
        study = self.study
        select = {group: how for group in study.groups if (how := study.selection(group)) is not None}
        found = {
            "select": select,
            "validation_users": list(study.users.validation) if study.chosen_by_accuracy else [],
            "matrices": {
                group: {"own": own, "owners": {name: study.adapter_owners(name) for name in study.groups[group]}}
                for group, own in study.matrices.items()
            },
            "comparisons": [list(pair) for pair in study.comparisons],
        }
        return {key: value for key, value in found.items() if value}

    @cached_property
    def further_tasks(self) -> dict[str, Any]:
        """The further tasks; empty unless the study has some."""
        further = self.study.evaluation.further_tasks
        return {"further_tasks": list(further)} if further else {}

    @cached_property
    def folds(self) -> dict[str, Any]:
        """How samples are cut into folds; empty unless the study has folds."""
        return {"folds": self.study.folds.settings} if self.study.folds else {}

    @cached_property
    def pixels(self) -> Pixels:
        """Bounds of the size of images."""
        base = self.study.base_model
        return Pixels(min=base.min_pixels, max=base.max_pixels)

    @cached_property
    def thinking(self) -> dict[str, Any]:
        """Whether the model thinks before it answers; empty unless the study sets it."""
        thinking = self.study.base_model.thinking
        return {} if thinking is None else {"thinking": thinking}


def kept_steps(experiment: Experiment) -> dict[str, Any]:
    """Return the steps whose weights a training keeps; empty unless the study sets some."""
    assert experiment.training is not None
    steps = experiment.training.keep_checkpoints
    return {KEPT_STEPS: tuple(sorted(steps))} if steps else {}


def without_kept_steps(recipe: TrainRecipe) -> str:
    """Return the digest of a training's recipe for what uses its result, which kept weights do not change."""
    return digest({key: value for key, value in recipe.as_json().items() if key != KEPT_STEPS})


def training_settings(experiment: Experiment) -> TrainingSettings:
    """Return the settings of the optimizer that the recipe of a training has."""
    assert experiment.training is not None
    hidden = {*_EXECUTION_KEYS, KEPT_STEPS, "freeze" if experiment.mode == "lora" else "lora"}
    # Defaults are left out, as in recipes of older releases.
    hidden |= {
        key for key, usual in (("keep", "last"), ("early_stopping", None)) if getattr(experiment.training, key) == usual
    }
    if experiment.trained_on_folds:
        # There is no validation.
        hidden.add("validate_every_steps")
    return TrainingSettings(**experiment.training.model_dump(mode="json", exclude=hidden))


def execution_of(study: Study, experiment: str) -> Execution:
    """Return the training settings of an experiment that change only the last digits, and where losses are reported."""
    training = study.experiments[experiment].training
    assert training is not None
    tracking = study.tracking
    reported: dict[str, Any] = {}
    if tracking.trackers:
        folder = Path(study.results, TRACKERS)
        reported["tracking"] = Tracking(
            trackers=tracking.trackers, project=tracking.project or study.name, run=experiment, folder=folder
        )
    return Execution(**training.model_dump(include=set(_EXECUTION_KEYS)), **reported)
