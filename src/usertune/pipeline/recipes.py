"""Recipes: for each step, the part of the study that its result depends on, as canonical JSON.

Recipes are known when jobs are planned. The ``upstream`` key contains the digests of the recipes of earlier steps, so a
change reaches all steps downstream. The fingerprint of a result (`usertune.core.hashing.step_fingerprint`) is known
when the job runs: it covers the recipe without ``upstream`` and the *content* of the inputs, so work is repeated only
if something differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from usertune.core import step_names as names
from usertune.core.hashing import NOT_IN_FINGERPRINT, digest
from usertune.core.recipe import Recipe
from usertune.data.recipe import LeakageRecipe, PrepareRecipe, PromptSettings
from usertune.evaluation.recipe import CompareRecipe, ScoreRecipe
from usertune.inference.engines.catalogue import DEFAULT_ENGINE
from usertune.inference.recipe import AnswersRecipe, ContextSettings, PredictRecipe, PriorRecipe, PriorSettings
from usertune.models.recipe import BaseModelRecipe, OtherWeightsRecipe
from usertune.pipeline.figures_of_study import figures_of, figures_of_report
from usertune.pipeline.plug_ins import code_key, recorded_code
from usertune.pipeline.recipe_parts import (
    RecipeParts,
    execution_of,
    kept_steps,
    training_settings,
    without_kept_steps,
)
from usertune.reporting.recipe import FigureRecipe, ReportRecipe
from usertune.study.schema.elsewhere import made_elsewhere
from usertune.study.schema.experiment import Experiment
from usertune.study.schema.study import Rerun, Study
from usertune.training.recipe import SplitUsers, TrainFoldsRecipe, TrainRecipe


class AuditRecipe(Recipe):
    """What the audit depends on, in addition to the results."""

    code: str = ""
    """Version of the code of the step."""
    users: dict[str, str] = {}  # noqa: RUF012 (pydantic copies it)
    """The users of each split, in the short notation."""
    now: dict[str, dict[str, str]] = {}  # noqa: RUF012 (pydantic copies it)
    """Current ``code`` of the recorded steps and ``versions`` of packages."""


@dataclass(frozen=True)
class Recipes:
    """The recipes of one study. Every method returns canonical JSON, ready for a rule's ``params``.

    Args:
        study: the study.
        code: code version of each step and figure (see `current_code`). It is part of the recipes of score, compare,
            figure, audit and report; of the expensive steps only with ``rerun.on_code_change``.
        versions: package versions; part of the recipes of expensive steps only with ``rerun.on_code_change``.
    """

    study: Study
    code: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _parts(self) -> RecipeParts:
        return RecipeParts(self.study)

    def prepare(self) -> str:
        """Recipe for preparing a user's data (the same for all users)."""
        return self._prepare.text()

    def leakage(self) -> str:
        """Recipe for comparing the samples of the splits."""
        return self._leakage.text()

    def base_model(self) -> str:
        """Recipe for finding the base model and its digests."""
        return self._base_model.text()

    def train(self, experiment: str) -> str:
        """Recipe for training an experiment."""
        return self._train(experiment).text()

    def train_folds(self, experiment: str) -> str:
        """Recipe for training an experiment on folds of test users' samples (the same for all users)."""
        return self._train_folds(experiment).text()

    def other_weights(self, experiment: str) -> str:
        """Recipe for finding the weights of an experiment that does not train them."""
        return self._other_weights(experiment).text()

    def predict(self, experiment: str) -> str:
        """Recipe for predicting with an experiment (the same for all batches of users)."""
        return self._predict(experiment).text()

    def score(self, experiment: str) -> str:
        """Recipe for scoring an experiment's predictions (the same for all users)."""
        return self._score(experiment).text()

    def compare(self) -> str:
        """Recipe of the tables."""
        return self._compare.text()

    def figure(self, name: str) -> str:
        """Recipe of one figure."""
        return self._figure(name).text()

    def execution(self, experiment: str) -> str:
        """Training settings that change only the last digits; not part of the recipe."""
        return execution_of(self.study, experiment).text()

    def audit(self) -> str:
        """Recipe of the audit, with the current code and packages, to which the audit compares those of the results."""
        recorded = {name: self.code.get(name, "") for name in recorded_code(self.study)}
        return AuditRecipe(
            step=names.AUDIT,
            code=self.code.get(names.AUDIT, ""),
            users=self._parts.splits,
            now={"code": recorded, "versions": dict(self.versions)},
            upstream={
                names.LEAKAGE: _digest(self._leakage),
                names.COMPARE: _digest(self._compare),
                **{f"figure {name}": _digest(self._figure(name)) for name in figures_of(self.study)},
            },
        ).text()

    def report(self) -> str:
        """Recipe of the report."""
        study = self.study
        return ReportRecipe(
            step=names.REPORT,
            code=self.code.get(names.REPORT, ""),
            study=study.name,
            title=study.report.title,
            **self._parts.hypothesis,
            samples=study.report.samples,
            **self._parts.price,
            cost_figures={name: self._colours(name) for name in figures_of_report(study)},
            study_sha256=self.study_digest,
            splits=self._parts.splits,
            dataset={key: value for key, value in self._prepare.as_json().items() if key not in NOT_IN_FINGERPRINT},
            **self._parts.design,
            upstream={
                names.LEAKAGE: _digest(self._leakage),
                names.COMPARE: _digest(self._compare),
                names.AUDIT: digest(self.audit()),
            },
        ).text()

    @cached_property
    def settings_digest(self) -> str:
        """Digest of the audit's recipe, and so of all settings that a result depends on."""
        return digest(json.loads(self.audit()))

    @cached_property
    def study_digest(self) -> str:
        """Digest of the settings that determine the numbers, without presentation and execution settings."""
        plain = Recipes(self.study.model_copy(update={"rerun": Rerun()}))
        return digest({**self._parts.numbers, **self._parts.choices, **plain._scores})

    @cached_property
    def _prepare(self) -> PrepareRecipe:
        dataset = self.study.dataset
        # Left out if empty, as in recipes of older releases.
        options: dict[str, Any] = {"options": dataset.options} if dataset.options else {}
        return PrepareRecipe(
            step=names.PREPARE,
            format=dataset.format,
            **options,
            task=dataset.task,
            frame=dataset.frame,
            prompt=PromptSettings(**dataset.prompt.model_dump()),
            on_bad_sample=dataset.on_bad_sample,
            **self._made_with(names.PREPARE),
            upstream={},
        )

    @cached_property
    def _leakage(self) -> LeakageRecipe:
        # Left out unless the study has such an experiment, so that other recipes do not change.
        pooled: dict[str, Any] = {"pooled": True} if any(map(_is_pooled, self.study.experiments.values())) else {}
        return LeakageRecipe(
            step=names.LEAKAGE,
            code=self.code.get(names.LEAKAGE, ""),
            splits=self._parts.splits,
            **self._parts.folds,
            **pooled,
            upstream={names.PREPARE: _digest(self._prepare)},
        )

    @cached_property
    def _base_model(self) -> BaseModelRecipe:
        base = self.study.base_model
        return BaseModelRecipe(
            step=names.BASE_MODEL,
            # As written in the study, regardless of the working directory.
            path=self.study.origin.base_model or base.path,
            revision=base.revision,
            pixels=self._parts.pixels,
            **self._parts.thinking,
            **self._made_with(names.BASE_MODEL),
            upstream={},
        )

    def _made_with(self, step: str) -> dict[str, Any]:
        if not self.study.rerun.on_code_change:
            return {}
        return {"provenance": {"code": self.code.get(step, ""), "versions": dict(self.versions)}}

    def _train(self, name: str) -> TrainRecipe:
        experiment, users = self.study.experiments[name], self.study.users
        assert experiment.mode in ("lora", "full")
        return TrainRecipe(
            step=names.TRAIN,
            mode=experiment.mode,
            training=training_settings(experiment),
            pixels=self._parts.pixels,
            dtype=self.study.base_model.dtype,
            **self._parts.thinking,
            users=SplitUsers(train=users.train, validation=users.validation),
            **kept_steps(experiment),
            **self._made_with(names.TRAIN),
            upstream=self._sources,
        )

    def _train_folds(self, name: str) -> TrainFoldsRecipe:
        experiment, folds = self.study.experiments[name], self.study.folds
        assert experiment.mode in ("lora", "full")
        assert experiment.scope != "global"
        assert folds is not None
        start = self.study.start_of(name)
        options: dict[str, Any] = {"start": self.study.experiments[start].mode} if start else {}
        if experiment.samples != "all":
            options["samples"] = experiment.samples
        return TrainFoldsRecipe(
            step=names.TRAIN_FOLDS,
            mode=experiment.mode,
            scope=experiment.scope,
            folds=folds.settings,
            **options,
            training=training_settings(experiment),
            pixels=self._parts.pixels,
            dtype=self.study.base_model.dtype,
            **self._parts.thinking,
            **self._made_with(names.TRAIN_FOLDS),
            upstream={**self._sources, **(self._weights(start) if start else {})},
        )

    def _predict(self, name: str) -> PredictRecipe | AnswersRecipe | PriorRecipe:
        if self.study.experiments[name].answers is not None:
            return AnswersRecipe(
                step=names.PREDICT, answers=self._elsewhere(name), upstream={names.PREPARE: _digest(self._prepare)}
            )
        if self.study.experiments[name].prior is not None:
            return self._prior(name)
        # The default is left out, as in recipes of older releases.
        chosen = self.study.engine_of(name)
        engine: dict[str, Any] = {"engine": chosen.kind} if chosen.kind != DEFAULT_ENGINE else {}
        if settings := chosen.options.deciding():
            engine["engine_settings"] = settings
        owners = self.study.adapter_owners(name)
        options: dict[str, Any] = {"adapters": owners} if owners else {}
        return PredictRecipe(
            step=names.PREDICT,
            max_new_tokens=self.study.max_new_tokens(name),
            pixels=self._parts.pixels,
            dtype=self.study.base_model.dtype,
            **self._parts.thinking,
            **engine,
            **options,
            **self._context(name),
            **self._made_with(code_key(self.study, names.PREDICT, name)),
            upstream={**self._sources, **self._weights(name)},
        )

    def _context(self, name: str) -> dict[str, Any]:
        """Empty unless the experiment has a context, so that other recipes do not change."""
        study, context = self.study, self.study.experiments[name].context
        if context is None:
            return {}
        own = context.of == "same_user"
        found: dict[str, Any] = {
            "context": ContextSettings(
                episodes=context.episodes,
                of=context.of,
                samples=context.samples,
                images=context.images,
                **(self._parts.folds if own else {}),
            )
        }
        if not own:
            found["context_users"] = {user: study.next_user(user) for user in study.answered_users(name)}
        return found

    def _other_weights(self, name: str) -> OtherWeightsRecipe:
        experiment = self.study.experiments[name]
        assert experiment.mode in ("lora", "full")
        kept = experiment.checkpoint
        source: dict[str, Any] = {"of": kept.of, "kept_step": kept.step} if kept else {"path": self._elsewhere(name)}
        training = {names.TRAIN: without_kept_steps(self._train(kept.of))} if kept else {}
        return OtherWeightsRecipe(
            step=names.OTHER_WEIGHTS,
            mode=experiment.mode,
            **source,
            **self._made_with(names.OTHER_WEIGHTS),
            upstream={names.BASE_MODEL: _digest(self._base_model), **training},
        )

    def _elsewhere(self, name: str) -> str:
        """Return the path of what an experiment takes from elsewhere, as written in the study."""
        experiment = self.study.experiments[name]
        return self.study.origin.elsewhere.get(name) or str(getattr(experiment, made_elsewhere(experiment)[0]))

    def _prior(self, name: str) -> PriorRecipe:
        study, prior = self.study, self.study.experiments[name].prior
        assert prior is not None
        found: dict[str, Any] = {"of": prior.of}
        users: dict[str, Any] = {"users": study.users.train} if prior.of == "train_users" else {}
        if prior.of != "centre":
            found["point"] = prior.point
            if prior.point == "densest":
                found["radius"] = study.evaluation.thresholds[0]
        return PriorRecipe(
            step=names.PREDICT,
            code=self.code.get(code_key(study, names.PREDICT, name), ""),
            task=study.dataset.task,
            prior=PriorSettings(**found),
            **users,
            **(self._parts.folds if prior.of == "same_user" else {}),
            **self._made_with(code_key(study, names.PREDICT, name)),
            upstream={names.PREPARE: _digest(self._prepare)},
        )

    def _weights(self, name: str) -> dict[str, str]:
        """Return the digests of the recipes that make an experiment's weights; empty if nothing is trained for it."""
        experiment = self.study.experiments[name]
        if experiment.uses_other_weights:
            return {names.OTHER_WEIGHTS: _digest(self._other_weights(name))}
        if experiment.trained_on_folds or experiment.adapters_of:
            return {names.TRAIN_FOLDS: _digest(self._train_folds(experiment.adapters_of or name))}
        return {names.TRAIN: without_kept_steps(self._train(name))} if experiment.trained else {}

    def _score(self, name: str) -> ScoreRecipe:
        return ScoreRecipe(
            step=names.SCORE,
            code=self.code.get(names.SCORE, ""),
            task=self.study.dataset.task,
            **self._parts.further_tasks,
            thresholds=self.study.evaluation.thresholds,
            **self._parts.folds,
            upstream={names.PREDICT: _digest(self._predict(name))},
        )

    @cached_property
    def _compare(self) -> CompareRecipe:
        return CompareRecipe(
            step=names.COMPARE,
            code=self.code.get(names.COMPARE, ""),
            study_sha256=self.study_digest,
            **self._parts.numbers,
            **self._parts.choices,
            upstream=self._scores,
        )

    def _figure(self, name: str) -> FigureRecipe:
        return FigureRecipe(
            step=names.FIGURE,
            code=self.code.get(f"figure:{name}", ""),
            name=name,
            colours=self._colours(name),
            **self._parts.numbers,
            upstream={names.COMPARE: _digest(self._compare)},
        )

    def _colours(self, figure: str) -> dict[str, str]:
        return dict(getattr(self.study.report.figures, figure).colours)

    @cached_property
    def _sources(self) -> dict[str, str]:
        return {names.PREPARE: _digest(self._prepare), names.BASE_MODEL: _digest(self._base_model)}

    @cached_property
    def _scores(self) -> dict[str, str]:
        return {f"score {name}": _digest(self._score(name)) for name in self.study.experiments}


def _digest(recipe: Recipe) -> str:
    return digest(recipe.as_json())


def _is_pooled(experiment: Experiment) -> bool:
    return experiment.trained_on_folds and experiment.scope == "pooled"
