"""The models that answer an experiment's samples, from the manifests of base model and trained weights.

Planning uses it too, so it does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from usertune.core.errors import UserError
from usertune.core.hashing import step_fingerprint
from usertune.core.manifest import name_among_inputs, read_manifest
from usertune.core.step_names import BASE_MODEL, OTHER_WEIGHTS
from usertune.core.users import batch_label
from usertune.data.folds import FoldSettings, folds_of, held_out
from usertune.data.samples import Sample
from usertune.inference.questions import Question, questions_of
from usertune.inference.recipe import PredictRecipe
from usertune.models.base_folder import from_record
from usertune.models.external_weights import check_unchanged
from usertune.models.recipe import StartWeights

# Roles of inputs, in manifests and in the identity of a model.
WEIGHTS, START = "weights", "start"


class Found(NamedTuple):
    """A manifest and where it is."""

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Found:
        """Read a manifest, see `usertune.core.manifest.read_manifest`."""
        return cls(path, read_manifest(path))

    def folder(self, weights: str) -> Path:
        """Return a folder that the manifest names relative to itself."""
        return self.path.parent / weights


@dataclass(frozen=True)
class Model:
    """One model.

    Attributes:
        identity: role -> digest of base model and weights. With the settings of generation, it decides the answers.
        weights_folder: folder of the trained weights; None for the base model.
    """

    identity: Mapping[str, str]
    weights_folder: Path | None = None


@dataclass(frozen=True)
class FoldModels:
    """The models of one training on folds, each of which answers the samples of its fold.

    Attributes:
        trained: manifest of the training.
    """

    trained: Found

    @property
    def settings(self) -> FoldSettings:
        """How the samples of each user were cut into folds."""
        return FoldSettings.model_validate(self.trained.manifest["recipe"]["folds"])

    @property
    def keys(self) -> list[str]:
        """The keys of its models."""
        return [self.key(int(fold)) for fold in self.trained.manifest["folds"]]

    def key(self, fold: int) -> str:
        """Return the key of the model that answers the samples of a fold."""
        return f"{batch_label(self.trained.manifest['users'])}/{fold}"

    def questions(self, samples: Sequence[Sample], data: Found) -> list[Question]:
        """Return a question for each sample of one user, to the model of its fold.

        Args:
            samples: all samples of the user.
            data: their manifest.

        Raises:
            UserError: the training cut other samples, or cut them in another way.
        """
        fold_of = folds_of(samples, self.settings)
        self._check(fold_of, data)
        return [Question(sample, self.key(fold_of[sample["id"]])) for sample in samples]

    def _check(self, fold_of: Mapping[str, int], data: Found) -> None:
        """Check that the training left exactly these samples out of each fold, if it saw the user at all."""
        user, path, manifest = data.manifest["user"], self.trained.path, self.trained.manifest
        if user not in manifest["users"]:
            return
        if manifest["inputs"]["samples"][user] != data.manifest["output"]:
            raise UserError(f"{path}: trained on other samples of user {user} than those of {data.path}; train again")
        recorded = {int(fold): value["held_out"][user] for fold, value in manifest["folds"].items()}
        now = held_out(fold_of)
        if wrong := sorted(fold for fold in recorded.keys() | now.keys() if recorded.get(fold) != now.get(fold)):
            raise UserError(
                f"{path}: fold {wrong[0]} of user {user} is made of other samples now than in training, so a model "
                "could be asked what it was trained on; train again"
            )


@dataclass(frozen=True)
class ModelsInUse:
    """The models of one experiment on one base model.

    Attributes:
        base: manifest of the base model.
        weights: manifests of the trained weights; empty for vanilla.
        start: manifest of the training whose weights they started from; None for the base model.
        models: key -> model. The key of a model that answers all samples is empty.
        folds: user -> models of the folds; empty if one model answers all samples.
    """

    base: Found
    weights: tuple[Found, ...]
    start: Found | None
    models: Mapping[str, Model]
    folds: Mapping[str, FoldModels] = field(default_factory=dict)

    @property
    def base_folder(self) -> Path:
        """The folder of the base model."""
        return from_record(self.base.manifest["folder"], self.base.path)

    @property
    def start_weights(self) -> StartWeights | None:
        """The weights that training started from; None for the base model."""
        if self.start is None:
            return None
        manifest = self.start.manifest
        return StartWeights(mode=manifest["mode"], folder=self.start.folder(manifest["weights_folder"]))

    @property
    def mode(self) -> str:
        """vanilla, lora or full."""
        return str(self.weights[0].manifest["mode"]) if self.weights else "vanilla"

    @property
    def inputs(self) -> dict[str, Any]:
        """The digests of base model and weights, by role, for the manifest of predictions."""
        found: dict[str, Any] = {BASE_MODEL: self.base.manifest["output"]}
        if self.folds:
            found[WEIGHTS] = {name_among_inputs(own.manifest): own.manifest["output"] for own in self.weights}
        elif self.weights:
            found[WEIGHTS] = self.weights[0].manifest["output"]
        return found | ({START: self.start.manifest["output"]} if self.start else {})

    def questions(self, samples: Sequence[Sample], data: Found) -> list[Question]:
        """Return a question for each sample of one user, in their order; exactly one model answers each.

        Args:
            samples: all samples of the user.
            data: their manifest.

        Raises:
            UserError: no model was trained for the user, or see `FoldModels.questions`.
        """
        own = self.folds_of_user(data.manifest["user"])
        return questions_of(samples) if own is None else own.questions(samples, data)

    def folds_of_user(self, user: str) -> FoldModels | None:
        """Return the models of the folds of a user's samples; None if one model answers all samples.

        Raises:
            UserError: no model was trained for the user.
        """
        if not self.folds:
            return None
        if user not in self.folds:
            raise UserError(f"{self.weights[0].path}: no weights for user {user} are given; name their manifest too")
        return self.folds[user]

    def keys_of(self, user: str) -> list[str]:
        """Return the keys of all models that answer a user's samples."""
        own = self.folds_of_user(user)
        return list(self.models) if own is None else own.keys

    def namespace(self, recipe: PredictRecipe, key: str) -> str:
        """Return the fingerprint of a model and the settings of generation, under which its answers are stored."""
        return step_fingerprint(recipe.generation(), self.models[key].identity)


def models_in_use(
    base: Found, weights: Sequence[Found], start: Found | None = None, owners: Mapping[str, str] | None = None
) -> ModelsInUse:
    """Return the models of an experiment.

    Args:
        base: manifest of the base model.
        weights: manifests of the trained weights: none for vanilla, one training for all users, or trainings on folds.
        start: manifest of the training whose weights they started from; None for the base model.
        owners: user -> user whose adapters answer; None or empty: the user's own.

    Raises:
        UserError: the weights were trained on another base model, or started from other weights, or those from
            elsewhere changed since they were read.
    """
    for own in [*weights, *([start] if start else [])]:
        if own.manifest["inputs"][BASE_MODEL] != base.manifest["output"]:
            raise UserError(f"{own.path}: trained on another base model than {base.path}; train again")
    for own in weights:
        _check_start(own, start)
    if not weights:
        return ModelsInUse(base, (), None, {"": Model(_identity(base, None, base.manifest["output"]))})
    if not any("folds" in own.manifest for own in weights):
        (one,) = weights
        # The other files are results, which planning checks.
        if one.manifest["step"] == OTHER_WEIGHTS and one.manifest["recipe"].get("path"):
            check_unchanged(one.manifest, one.folder(one.manifest["weights_folder"]))
        model = Model(_identity(base, start, one.manifest["output"]), one.folder(one.manifest["weights_folder"]))
        return ModelsInUse(base, (one,), start, {"": model})
    folds = {user: FoldModels(own) for own in weights for user in own.manifest["users"]}
    if owners:
        folds = {user: folds[owner] for user, owner in owners.items() if owner in folds}
    models = dict(_models_of_folds(base, start, weights))
    return ModelsInUse(base, tuple(weights), start, models, folds)


def _models_of_folds(base: Found, start: Found | None, weights: Iterable[Found]) -> Iterator[tuple[str, Model]]:
    for own in weights:
        for fold, value in own.manifest["folds"].items():
            identity = _identity(base, start, value["weights_fingerprint"])
            yield FoldModels(own).key(int(fold)), Model(identity, own.folder(value["weights_folder"]))


def _identity(base: Found, start: Found | None, weights: str) -> dict[str, str]:
    found = {BASE_MODEL: base.manifest["output"], WEIGHTS: weights}
    return found | ({START: start.manifest["output"]} if start else {})


def _check_start(own: Found, start: Found | None) -> None:
    """Check that weights were trained from these ones."""
    recorded = own.manifest["inputs"].get(START)
    if recorded == (start.manifest["output"] if start else None):
        return
    if start is None:
        raise UserError(
            f"{own.path}: trained from the weights of another training (start_from), whose manifest is needed too"
        )
    begun = "other weights" if recorded else "the base model"
    raise UserError(f"{own.path}: trained from {begun}, not from those of {start.path}; train again")
