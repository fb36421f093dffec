"""Recipes: for every step, the part of the study that its result depends on, as canonical JSON.

A recipe is known when the jobs are planned. It says what the step does; its ``upstream`` key holds the
digests of the recipes of the steps before it, so that a change anywhere above reaches every step below at
once. The fingerprint of a result (`usertune.fingerprint.step_fingerprint`) is known when the job runs: it is
made from the recipe without ``upstream`` and from the *content* of the inputs, so work is repeated only when
something really differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from usertune.fingerprint import canonical_json, digest
from usertune.study import Experiment, Study

# Settings of `training` that change how fast or how safely a run goes, not what comes out of it.
EXECUTION_KEYS = frozenset({"micro_batch", "gradient_checkpointing", "save_every_steps", "loader_workers"})

FIGURE_NAMES = ("accuracy_by_user", "distance_distribution", "loss_curves")

Recipe = dict[str, Any]


@dataclass(frozen=True)
class Recipes:
    """The recipes of one study. Every method returns canonical JSON, ready for a rule's ``params``."""

    study: Study

    def prepare(self) -> str:
        """Recipe of checking one user's raw data (the same for every user)."""
        return canonical_json(self._prepare)

    def base_model(self) -> str:
        """Recipe of finding the base model and taking its digests."""
        return canonical_json(self._base_model)

    def train(self, experiment: str) -> str:
        """Recipe of training one experiment."""
        return canonical_json(self._train(experiment))

    def predict(self, experiment: str) -> str:
        """Recipe of predicting with one experiment (the same for every batch of users)."""
        return canonical_json(self._predict(experiment))

    def score(self, experiment: str) -> str:
        """Recipe of scoring one experiment's predictions (the same for every user)."""
        return canonical_json(self._score(experiment))

    def compare(self) -> str:
        """Recipe of the tables."""
        return canonical_json(self._compare)

    def figure(self, name: str) -> str:
        """Recipe of one figure."""
        return canonical_json(self._figure(name))

    def execution(self, experiment: str) -> str:
        """How to train an experiment, as far as it has no effect on what comes out; not part of its recipe."""
        training = self.study.experiments[experiment].training
        assert training is not None
        return canonical_json(training.model_dump(include=set(EXECUTION_KEYS - {"micro_batch"})))

    def report(self) -> str:
        """Recipe of the report."""
        study = self.study
        own = {
            "study": study.name,
            "title": study.report.title,
            "examples": study.report.examples,
            **self._design,
        }
        return canonical_json(_recipe("report", own, {"compare": digest(self._compare)}))

    @cached_property
    def _prepare(self) -> Recipe:
        dataset = self.study.dataset
        own = {"format": dataset.format, "task": dataset.task, "on_bad_sample": dataset.on_bad_sample}
        return _recipe("prepare", own, {})

    @cached_property
    def _base_model(self) -> Recipe:
        base = self.study.base_model
        return _recipe("base_model", {"path": base.path, "revision": base.revision}, {})

    def _train(self, name: str) -> Recipe:
        experiment = self.study.experiments[name]
        users = self.study.users
        own = {
            "mode": experiment.mode,
            "training": _training_settings(experiment),
            "pixels": self._pixels,
            "dtype": self.study.base_model.dtype,
            "users": {"train": list(users.train), "validation": list(users.validation)},
        }
        return _recipe("train", own, self._sources)

    def _predict(self, name: str) -> Recipe:
        own = {
            "max_new_tokens": self.study.max_new_tokens(name),
            "pixels": self._pixels,
            "dtype": self.study.base_model.dtype,
        }
        upstream = dict(self._sources)
        if self.study.experiments[name].trained:
            upstream["train"] = digest(self._train(name))
        return _recipe("predict", own, upstream)

    def _score(self, name: str) -> Recipe:
        own = {"task": self.study.dataset.task, "thresholds": list(self.study.evaluation.thresholds)}
        return _recipe("score", own, {"predict": digest(self._predict(name))})

    @cached_property
    def _compare(self) -> Recipe:
        own = {"confidence": self.study.evaluation.confidence, **self._design}
        return _recipe("compare", own, self._scores)

    def _figure(self, name: str) -> Recipe:
        own = {"name": name, "confidence": self.study.evaluation.confidence, **self._design}
        return _recipe("figure", own, {"compare": digest(self._compare)})

    @cached_property
    def _design(self) -> Recipe:
        study = self.study
        return {
            "experiments": [{"name": name, "mode": value.mode} for name, value in study.experiments.items()],
            "users": list(study.users.test),
            "thresholds": list(study.evaluation.thresholds),
        }

    @cached_property
    def _pixels(self) -> Recipe:
        base = self.study.base_model
        return {"min": base.min_pixels, "max": base.max_pixels}

    @cached_property
    def _sources(self) -> Recipe:
        return {"prepare": digest(self._prepare), "base_model": digest(self._base_model)}

    @cached_property
    def _scores(self) -> Recipe:
        return {f"score {name}": digest(self._score(name)) for name in self.study.experiments}


def _recipe(step: str, own: Recipe, upstream: Mapping[str, str]) -> Recipe:
    return {"step": step, **own, "upstream": dict(upstream)}


def _training_settings(experiment: Experiment) -> Recipe:
    assert experiment.training is not None
    hidden = {*EXECUTION_KEYS, "freeze_vision" if experiment.mode == "lora" else "lora"}
    return experiment.training.model_dump(mode="json", exclude=hidden)
