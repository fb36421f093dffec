"""Real small trainings on folds, with the manifest that prediction reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.fine_tuning import fine_tuning
from tests.unit.conftest import BASE, Prepared
from usertune.core.files import write_text
from usertune.core.hashing import digest, digest_folder, step_fingerprint
from usertune.core.manifest import FORMAT, read_manifest, write_result
from usertune.core.step_names import BASE_MODEL, TRAIN_FOLDS
from usertune.data.folds import FoldSettings, folds_of, held_out, training_part
from usertune.data.samples import read_user
from usertune.models.base_folder import model_files
from usertune.runtime.provenance import current_provenance

TWO = FoldSettings(count=2, by="random", seed=0)


def train_on_folds(
    prepared: Prepared,
    manifest_file: Path,
    users: Sequence[str],
    folds: FoldSettings = TWO,
    start: Path | None = None,
    **training: Any,
) -> Path:
    """Train an adapter for each fold of some users, and write the manifest; return its path.

    Args:
        prepared: the samples.
        manifest_file: the manifest to write; the weights lie next to it.
        users: the users; their folds of the same number are trained on together.
        folds: how the samples are cut.
        start: manifest of a full training to start from.
        training: other settings of training.
    """
    data = {user: read_user(prepared.manifest(user)) for user in users}
    fold_of = {user: folds_of(samples, folds) for user, (_, samples) in data.items()}
    begun = None if start is None else read_manifest(start)
    base_folder = BASE if start is None or begun is None else start.parent / begun["weights_folder"]
    inputs = {
        BASE_MODEL: read_manifest(prepared.base_manifest)["output"],
        **({"start": begun["output"]} if begun else {}),
        "samples": {user: manifest["output"] for user, (manifest, _) in data.items()},
    }
    recipe = {"step": TRAIN_FOLDS, "mode": "lora", "folds": folds.as_json(), "training": training}
    found = {}
    for fold in range(1, folds.count + 1):
        run = fine_tuning(prepared, "lora", **{"learning_rate": 1e-2, "seed": fold, **training})
        parts = [training_part(samples, fold_of[user], fold) for user, (_, samples) in data.items()]
        run = type(run)(
            **{
                **vars(run),
                "base_folder": base_folder,
                "train_samples": [sample for part in parts for sample in part.samples],
                "validation_samples": [],
            }
        )
        found[str(fold)] = _trained(run, manifest_file.parent, fold_of, fold)
    weights = {fold: value["weights_fingerprint"] for fold, value in found.items()}
    write_result(manifest_file, {
        "step": TRAIN_FOLDS,
        "format": FORMAT,
        "experiment": manifest_file.parent.name,
        "users": list(users),
        "mode": "lora",
        "scope": "personal" if len(users) == 1 else "pooled",
        "recipe": recipe,
        "inputs": inputs,
        "fingerprint": step_fingerprint(recipe, inputs),
        "folds": found,
        "output": digest(weights),
        "provenance": [current_provenance("train")],
        "files": {},
    })  # fmt: skip
    return manifest_file


def _trained(run: Any, folder: Path, fold_of: dict[str, dict[str, int]], fold: int) -> dict[str, Any]:
    """Train one fold; return its part of the manifest."""
    from usertune.training.finetune import fine_tune

    key = digest([run.recipe.as_json(), run.train_samples, str(run.base_folder)])[:16]
    weights = folder / key / "weights"
    weights.parent.mkdir(parents=True, exist_ok=True)
    fine_tune(run, folder / key, weights, folder / key / "log.csv")
    files = digest_folder(weights)
    write_text(folder / key / "done", "")
    return {
        "weights_folder": f"{key}/weights",
        "weights_fingerprint": digest({name: files[name] for name in model_files(weights)}),
        "weights_files": files,
        "train_samples": len(run.train_samples),
        "test_samples": sum(list(own.values()).count(fold) for own in fold_of.values()),
        "held_out": {user: held_out(own)[fold] for user, own in fold_of.items()},
    }
