"""The stored answers of all models of one prediction job. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from usertune.core.step_names import PREDICT
from usertune.inference.engines.catalogue import ENGINES
from usertune.inference.models_in_use import ModelsInUse
from usertune.inference.prediction_store import Prediction, PredictionStore, PredictionWriter
from usertune.inference.questions import Question
from usertune.inference.recipe import PredictRecipe
from usertune.models.families.catalogue import recorded_module
from usertune.runtime.provenance import UNKNOWN, Provenance, current_provenance, differences, distinct

# What an answer is found by: model, user and request.
Asked = tuple[str, str, str]


def asked(question: Question) -> Asked:
    """Return what the answer to a question is found by. Equal questions of a user share an answer."""
    return question.model, question.user, question.request


class StoredAnswers:
    """The stored answers of an experiment's models, each in a namespace of its own.

    With ``provenance`` in the recipe, only answers made with the current code count.

    Args:
        folder: folder of the prediction store.
        recipe: settings of generation.
        models: the models.
    """

    def __init__(self, folder: Path, recipe: PredictRecipe, models: ModelsInUse) -> None:
        self.stores = {key: PredictionStore(folder, models.namespace(recipe, key)) for key in models.models}
        self._recipe = recipe
        self._base = models.base.manifest

    def lock_file(self, name: str) -> Path:
        """Return the file to lock while answers to the same models are generated for the same job."""
        return min(store.folder for store in self.stores.values()) / f".{name}.lock"

    def read(self, who: Iterable[tuple[str, str]]) -> dict[Asked, Prediction]:
        """Return all stored answers of some models to some users.

        Args:
            who: pairs of model and user.
        """
        found: dict[Asked, Prediction] = {}
        for model, user in dict.fromkeys(who):
            store = self.stores[model]
            answers = store.read(user, self._accept(store))
            found.update(((model, user, request), answer) for request, answer in answers.items())
        return found

    def records_of(self, answers: Mapping[Asked, Prediction]) -> list[Provenance]:
        """Return the distinct provenance records of some answers."""
        keys: dict[str, set[str]] = {}
        for (model, _, _), answer in answers.items():
            keys.setdefault(model, set()).add(answer.provenance)
        found = []
        for model, own in keys.items():
            records = self.stores[model].current_provenance()
            found += [records.get(key, UNKNOWN) for key in sorted(own)]
        return distinct(found)

    def remember_effects(self, effects: Mapping[str, Mapping[str, Any]]) -> None:
        """Store what trained weights change, by model, see `usertune.inference.engine.Engine.effects`."""
        for model, effect in effects.items():
            self.stores[model].remember_effect(dict(effect))

    def effect(self) -> dict[str, Any] | None:
        """Return what the trained weights change; None if unknown.

        Of several adapters, the change is that of the one that changes least, and ``adapters`` is their number.
        """
        if "" in self.stores:
            return self.stores[""].effect()
        found = [effect for store in self.stores.values() if (effect := store.effect())]
        if not found:
            return None
        return {
            "probes": sum(effect["probes"] for effect in found),
            "largest_change": min(effect["largest_change"] for effect in found),
            "adapters": len(found),
            **_at_servers(found),
        }

    def writer(self, provenance: Provenance) -> AnswerWriter:
        """Return what stores answers, which this code, these packages and this machine made."""
        return AnswerWriter(self.stores, provenance)

    def _accept(self, store: PredictionStore) -> Callable[[Prediction], bool] | None:
        """Return whether a stored prediction counts; None if all do."""
        if self._recipe.provenance is None:
            return None
        now = current_provenance(PREDICT, plug_ins=plug_ins(self._recipe, self._base))
        current = {key for key, record in store.current_provenance().items() if not differences(record, now)}
        return lambda prediction: prediction.provenance in current


class AnswerWriter:
    """Stores answers in the namespaces of their models; they survive a crash once `append` has returned."""

    def __init__(self, stores: Mapping[str, PredictionStore], provenance: Provenance) -> None:
        self._stores = stores
        self._provenance = provenance
        self._writers: dict[str, tuple[PredictionWriter, str]] = {}

    def append(self, batch: Iterable[tuple[Question, Prediction]]) -> None:
        """Store the answers to some questions.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        rows: dict[str, list[tuple[Question, Prediction]]] = {}
        for question, prediction in batch:
            rows.setdefault(question.model, []).append((question, prediction))
        for model, own in rows.items():
            writer, provenance = self._of(model)
            writer.append(
                (question.user, question.request, replace(prediction, provenance=provenance))
                for question, prediction in own
            )

    def _of(self, model: str) -> tuple[PredictionWriter, str]:
        """Return the writer of a model, and the key of the provenance record in its store."""
        if model not in self._writers:
            store = self._stores[model]
            self._writers[model] = store.writer(), store.remember(self._provenance)
        return self._writers[model]


def plug_ins(recipe: PredictRecipe, base: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the modules of the engine and of the base model's family, which are part of the code of prediction."""
    return (ENGINES.module(recipe.engine), *recorded_module(base))


def _at_servers(effects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how far a server's adapters are from those of this process at most; empty unless all were compared."""
    if not all("disagreement" in effect for effect in effects):
        return {}
    # Adapters that were checked together share their number of identical answers.
    counts = {tuple(effect["identical_answers"]) for effect in effects}
    return {
        "disagreement": max(effect["disagreement"] for effect in effects),
        "bound": max(effect["bound"] for effect in effects),
        "identical_answers": [sum(count[part] for count in counts) for part in (0, 1)],
    }
