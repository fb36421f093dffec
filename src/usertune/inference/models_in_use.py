"""The models that answer an experiment's samples, from the manifests of base model and trained weights.

Planning uses it too, so it does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from usertune.core.errors import UserError
from usertune.core.hashing import step_fingerprint
from usertune.core.manifest import read_manifest
from usertune.core.step_names import BASE_MODEL
from usertune.data.samples import Sample
from usertune.inference.questions import Question, questions_of
from usertune.inference.recipe import PredictRecipe
from usertune.models.base_folder import from_record

WEIGHTS = "weights"


class Found(NamedTuple):
    """A manifest and where it is."""

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Found:
        """Read a manifest, see `usertune.core.manifest.read_manifest`."""
        return cls(path, read_manifest(path))


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
class ModelsInUse:
    """The models of one experiment on one base model.

    Attributes:
        base: manifest of the base model.
        trained: manifest of the training; None for vanilla.
        models: key -> model. The key of a model that answers all samples is empty.
    """

    base: Found
    trained: Found | None
    models: Mapping[str, Model]

    @property
    def base_folder(self) -> Path:
        """The folder of the base model."""
        return from_record(self.base.manifest["folder"], self.base.path)

    @property
    def mode(self) -> str:
        """vanilla, lora or full."""
        return str(self.trained.manifest["mode"]) if self.trained else "vanilla"

    def questions(self, samples: Sequence[Sample]) -> list[Question]:
        """Return a question for each sample of one user, in their order."""
        return questions_of(samples)

    def keys_of(self, _user: str) -> list[str]:
        """Return the keys of all models that answer a user's samples."""
        return list(self.models)

    def namespace(self, recipe: PredictRecipe, key: str) -> str:
        """Return the fingerprint of a model and the settings of generation, under which its answers are stored."""
        return step_fingerprint(recipe.as_json(), self.models[key].identity)


def models_in_use(base: Found, weights: Sequence[Found]) -> ModelsInUse:
    """Return the models of an experiment.

    Args:
        base: manifest of the base model.
        weights: manifests of the trained weights; empty for vanilla.

    Raises:
        UserError: the weights were trained on another base model.
    """
    identity = {BASE_MODEL: base.manifest["output"]}
    if not weights:
        return ModelsInUse(base, None, {"": Model({**identity, WEIGHTS: base.manifest["output"]})})
    (trained,) = weights
    if trained.manifest["inputs"][BASE_MODEL] != base.manifest["output"]:
        raise UserError(f"{trained.path}: trained on another base model than {base.path}; train again")
    folder = trained.path.parent / trained.manifest["weights_folder"]
    return ModelsInUse(base, trained, {"": Model({**identity, WEIGHTS: trained.manifest["output"]}, folder)})
