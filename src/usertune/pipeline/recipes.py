"""Recipes: for every step, the part of the study that its result depends on, as canonical JSON.

A recipe is known when the jobs are planned. It says what the step does; its ``upstream`` key holds the
digests of the recipes of the steps before it, so that a change anywhere above reaches every step below at
once. The fingerprint of a result (`usertune.core.hashing.step_fingerprint`) is known when the job runs: it is
made from the recipe without ``upstream`` and from the *content* of the inputs, so work is repeated only when
something really differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from usertune.core import step_names as names
from usertune.core.hashing import NOT_IN_FINGERPRINT, canonical_json, digest
from usertune.core.users import format_users
from usertune.data.readers.catalogue import READERS
from usertune.inference.engines.catalogue import DEFAULT_ENGINE, ENGINES
from usertune.pipeline import steps
from usertune.reporting.figures.catalogue import FIGURES
from usertune.runtime.code_version import code_version
from usertune.study.files import SPLITS
from usertune.study.schema.experiment import Experiment
from usertune.study.schema.report import FIGURE_NAMES
from usertune.study.schema.study import Rerun, Study
from usertune.tasks.catalogue import TASKS

# Settings of `training` that change how fast or how safely a run goes, and no more than the last digits of what comes
# out of it (docs/reproducibility.md).
EXECUTION_KEYS = frozenset({"micro_batch_size", "gradient_checkpointing", "save_every_steps", "dataloader_num_workers"})

Recipe = dict[str, Any]
_ABSENT = object()


@dataclass(frozen=True)
class Recipes:
    """The recipes of one study. Every method returns canonical JSON, ready for a rule's ``params``.

    Args:
        study: the study.
        code: version of the code of each step and figure (see `current_code`). It is part of the recipes of score,
            compare, figure, audit and report; of the others, whose work is dear, only if the study says so.
        versions: package versions, which the same holds for.
    """

    study: Study
    code: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

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
        """How to train an experiment, as far as it changes no more than the last digits; not part of its recipe."""
        training = self.study.experiments[experiment].training
        assert training is not None
        return canonical_json(training.model_dump(include=set(EXECUTION_KEYS - {"micro_batch_size"})))

    def audit(self) -> str:
        """Recipe of the audit. It names today's code and packages, with which it compares those of the results."""
        figures = {f"figure {name}": digest(self._figure(name)) for name in FIGURE_NAMES}
        now = {step: self.code.get(step, "") for step in steps.RECORDED_STEPS}
        own = {
            "code": self.code.get(names.AUDIT, ""),
            "users": self._splits,
            "now": {"code": now, "versions": dict(self.versions)},
        }
        return canonical_json(_recipe(names.AUDIT, own, {names.COMPARE: digest(self._compare), **figures}))

    def report(self) -> str:
        """Recipe of the report."""
        study = self.study
        own = {
            "code": self.code.get(names.REPORT, ""),
            "study": study.name,
            "title": study.report.title,
            "examples": study.report.examples,
            "study_sha256": self.study_digest,
            "splits": self._splits,
            "dataset": {key: value for key, value in self._prepare.items() if key not in NOT_IN_FINGERPRINT},
            **self._design,
        }
        upstream = {names.COMPARE: digest(self._compare), names.AUDIT: digest(self.audit())}
        return canonical_json(_recipe(names.REPORT, own, upstream))

    @cached_property
    def _splits(self) -> dict[str, str]:
        return {split: format_users(getattr(self.study.users, split)) for split in SPLITS}

    @cached_property
    def study_digest(self) -> str:
        """Digest of what the study says about its numbers; how they are shown, and made, has no part in it."""
        plain = Recipes(self.study.model_copy(update={"rerun": Rerun()}))
        return digest({**self._numbers, **plain._scores})

    @cached_property
    def _prepare(self) -> Recipe:
        dataset = self.study.dataset
        own = {
            "format": dataset.format,
            "task": dataset.task,
            "frame": dataset.frame,
            "prompt": dataset.prompt.model_dump(),
            "on_bad_sample": dataset.on_bad_sample,
        }
        return _recipe(names.PREPARE, {**own, **self._made_with(names.PREPARE)}, {})

    @cached_property
    def _base_model(self) -> Recipe:
        base = self.study.base_model
        # As it is written, whatever directory the study is run from.
        path = self.study.origin.base_model or base.path
        own = {"path": path, "revision": base.revision, "pixels": self._pixels, **self._thinking}
        return _recipe(names.BASE_MODEL, {**own, **self._made_with(names.BASE_MODEL)}, {})

    def _made_with(self, step: str) -> Recipe:
        if not self.study.rerun.on_code_change:
            return {}
        return {"provenance": {"code": self.code.get(step, ""), "versions": dict(self.versions)}}

    def _train(self, name: str) -> Recipe:
        experiment = self.study.experiments[name]
        users = self.study.users
        own = {
            "mode": experiment.mode,
            "training": _training_settings(experiment),
            "pixels": self._pixels,
            "dtype": self.study.base_model.dtype,
            **self._thinking,
            "users": {names.TRAIN: list(users.train), "validation": list(users.validation)},
        }
        return _recipe(names.TRAIN, {**own, **self._made_with(names.TRAIN)}, self._sources)

    def _predict(self, name: str) -> Recipe:
        own = {
            "max_new_tokens": self.study.max_new_tokens(name),
            "pixels": self._pixels,
            "dtype": self.study.base_model.dtype,
            **self._thinking,
        }
        # Left out where it is the usual one, as in recipes of older releases.
        if (engine := self.study.evaluation.engine) != DEFAULT_ENGINE:
            own["engine"] = engine
        upstream = dict(self._sources)
        if self.study.experiments[name].trained:
            upstream[names.TRAIN] = digest(self._train(name))
        return _recipe(names.PREDICT, {**own, **self._made_with(names.PREDICT)}, upstream)

    def _score(self, name: str) -> Recipe:
        own = {
            "code": self.code.get(names.SCORE, ""),
            "task": self.study.dataset.task,
            "thresholds": list(self.study.evaluation.thresholds),
        }
        return _recipe(names.SCORE, own, {names.PREDICT: digest(self._predict(name))})

    @cached_property
    def _compare(self) -> Recipe:
        own = {
            "code": self.code.get(names.COMPARE, ""),
            "study_sha256": self.study_digest,
            **self._numbers,
        }
        return _recipe(names.COMPARE, own, self._scores)

    def _figure(self, name: str) -> Recipe:
        own = {
            "code": self.code.get(f"figure:{name}", ""),
            "name": name,
            "colours": dict(getattr(self.study.report.figures, name).colours),
            **self._numbers,
        }
        return _recipe(names.FIGURE, own, {names.COMPARE: digest(self._compare)})

    @cached_property
    def _design(self) -> Recipe:
        study = self.study
        return {
            "experiments": [{"name": name, "mode": value.mode} for name, value in study.experiments.items()],
            "users": list(study.users.test),
            "task": study.dataset.task,
            "thresholds": list(study.evaluation.thresholds),
        }

    @cached_property
    def _numbers(self) -> Recipe:
        return {"confidence": self.study.evaluation.confidence, **self._design}

    @cached_property
    def _pixels(self) -> Recipe:
        base = self.study.base_model
        return {"min": base.min_pixels, "max": base.max_pixels}

    @cached_property
    def _thinking(self) -> Recipe:
        """Nothing where the study says nothing, so that recipes of models that do not think stay as they were."""
        thinking = self.study.base_model.thinking
        return {} if thinking is None else {"thinking": thinking}

    @cached_property
    def _sources(self) -> Recipe:
        return {names.PREPARE: digest(self._prepare), names.BASE_MODEL: digest(self._base_model)}

    @cached_property
    def _scores(self) -> Recipe:
        return {f"score {name}": digest(self._score(name)) for name in self.study.experiments}


def current_code(study: Study) -> dict[str, str]:
    """Return the version of today's code of every step, with the plug-ins that the study chose, and of every figure."""
    return {name: code_version(step, plug_ins) for name, (step, plug_ins) in chosen_plug_ins(study).items()}


def chosen_plug_ins(study: Study) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the step and the modules of the plug-ins of everything that has a code version: steps, and each figure."""
    reader, task = READERS.module(study.dataset.format), TASKS.module(study.dataset.task)
    plug_ins = {
        names.PREPARE: (reader, task),
        names.PREDICT: (ENGINES.module(study.evaluation.engine),),
        names.SCORE: (task,),
        names.COMPARE: (task,),
        names.REPORT: (task,),
        names.AUDIT: (reader,),
    }
    of_steps = {step: (step, plug_ins.get(step, ())) for step in steps.STEPS if step != names.FIGURE}
    return of_steps | {f"figure:{name}": (names.FIGURE, (FIGURES.module(name), task)) for name in FIGURES}


def recipe_changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in which settings two recipes differ, as ``training.epochs: 1 -> 2``; what lies upstream does not count."""
    before, after = _flat(was), _flat(now)
    return [
        f"{key}: {_value(before, key)} -> {_value(after, key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, _ABSENT) != after.get(key, _ABSENT)
    ]


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in recipe.items():
        if not prefix and key in NOT_IN_FINGERPRINT:
            continue
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _value(recipe: Mapping[str, Any], key: str) -> str:
    if key not in recipe:
        return "(not set)"
    text = json.dumps(recipe[key], ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _recipe(step: str, own: Recipe, upstream: Mapping[str, str]) -> Recipe:
    return {"step": step, **own, "upstream": dict(upstream)}


def _training_settings(experiment: Experiment) -> Recipe:
    assert experiment.training is not None
    hidden = {*EXECUTION_KEYS, "freeze" if experiment.mode == "lora" else "lora"}
    # Left out where they say nothing, as in recipes of older releases.
    hidden |= {
        key for key, usual in (("keep", "last"), ("early_stopping", None)) if getattr(experiment.training, key) == usual
    }
    return experiment.training.model_dump(mode="json", exclude=hidden)
