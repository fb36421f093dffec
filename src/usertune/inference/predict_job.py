"""What one prediction job asks: its questions, the models that answer them, and stored answers. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from usertune.data.samples import Sample, read_user
from usertune.inference.context import asked_as
from usertune.inference.models_in_use import Found, ModelsInUse, models_in_use
from usertune.inference.prediction_store import Prediction
from usertune.inference.questions import Question
from usertune.inference.recipe import PredictRecipe
from usertune.inference.stored_answers import Asked, StoredAnswers, asked
from usertune.runtime.locks import if_free, one_at_a_time


@dataclass(frozen=True)
class PredictFiles:
    """Files of one prediction job.

    Attributes:
        base_model: manifest of the base model.
        weights: manifests of the experiment's trained weights: none for vanilla, one training for all users, or
            trainings on folds.
        users: manifests of the users' prepared data.
        dataset_root: folder of the raw data.
        store: folder of the prediction store, which keeps every generated batch at once.
        predictions: JSON object to write, with the prediction of every sample.
        start: manifest of the training whose weights the others started from; None for the base model.
        context: manifests of the prepared data of other users whose samples are in the prompts.
    """

    base_model: Path
    weights: Sequence[Path]
    users: Sequence[Path]
    dataset_root: Path
    store: Path
    predictions: Path
    start: Path | None = None
    context: Sequence[Path] = ()


@dataclass(frozen=True)
class PredictJob:
    """One prediction job, with what its files say.

    Attributes:
        experiment: name of the experiment.
        recipe: settings of generation.
        files: its files.
        models: the models that answer.
        users: manifests of the users' prepared data.
        context: user -> manifest of the prepared data, for those whose samples are in the prompts.
        questions: a question for every sample, in the order of users and samples.
        stores: the stored answers of the models.
    """

    experiment: str
    recipe: PredictRecipe
    files: PredictFiles
    models: ModelsInUse
    users: Sequence[Mapping[str, Any]]
    context: Mapping[str, Mapping[str, Any]]
    questions: Sequence[Question]
    stores: StoredAnswers

    @classmethod
    def read(cls, experiment: str, recipe: PredictRecipe, files: PredictFiles) -> Self:
        """Read the manifests and samples of a job.

        Raises:
            UserError: an input is missing or damaged, or the weights were trained on another base model, from other
                weights or on other folds.
        """
        weights = [Found.read(path) for path in files.weights]
        start = Found.read(files.start) if files.start else None
        models = models_in_use(Found.read(files.base_model), weights, start, recipe.adapters)
        users = [(Found(path, manifest), samples) for path in files.users for manifest, samples in [read_user(path)]]
        others: dict[str, tuple[Mapping[str, Any], list[Sample]]] = {
            manifest["user"]: (manifest, samples) for manifest, samples in map(read_user, files.context)
        }
        questions = [
            question
            for found, samples in users
            for question in models.questions(asked_as(samples, recipe, found.manifest["user"], others), found)
        ]
        return cls(
            experiment=experiment,
            recipe=recipe,
            files=files,
            models=models,
            users=[found.manifest for found, _ in users],
            context={user: manifest for user, (manifest, _) in others.items()},
            questions=questions,
            stores=StoredAnswers(files.store, recipe, models),
        )

    def alone(self) -> AbstractContextManager[None]:
        """Return a block in which no other process generates these answers; it is waited for."""
        return one_at_a_time(self._lock_file(), f"predicting with {self.experiment}")

    def if_nobody_answers(self) -> AbstractContextManager[bool]:
        """Return the same block without waiting: it gets False if another process generates these answers now."""
        return if_free(self._lock_file())

    def stored(self) -> dict[Asked, Prediction]:
        """Return all stored answers of its models to its users."""
        return self.stores.read((question.model, question.user) for question in self.questions)

    def missing(self, stored: Mapping[Asked, Prediction]) -> list[Question]:
        """Return the questions without a stored answer; equal questions of a user are asked once."""
        return list(
            {asked(question): question for question in self.questions if asked(question) not in stored}.values()
        )

    def _lock_file(self) -> Path:
        return self.stores.lock_file(self.files.predictions.stem)
