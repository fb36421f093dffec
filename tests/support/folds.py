"""Small trainings on folds of two users' own samples, with the tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.unit.conftest import EXECUTION, Prepared
from usertune.core.hashing import digest_file
from usertune.core.manifest import read_manifest, write_result
from usertune.data.folds import FoldSettings
from usertune.training.recipe import Execution, TrainFoldsRecipe
from usertune.training.train_folds import FoldFiles, FoldJob

TWO = FoldSettings(count=2, by="episode", seed=0)


def folds_recipe(prepared: Prepared, mode: str = "lora", scope: str = "personal", **keys: Any) -> TrainFoldsRecipe:
    """Return a recipe of two folds and one epoch."""
    training = {"epochs": 1, "batch_size": 2, "warmup_steps": 0, **keys.pop("training", {})}
    own = prepared.train_recipe(mode, **training)
    return TrainFoldsRecipe.model_validate(
        {**own, "step": "train_folds", "scope": scope, "folds": TWO.model_dump(), **keys}
    )


def fold_files(prepared: Prepared, out: Path, start: Path | None = None) -> FoldFiles:
    """Return files that lead to ``out/users_LABEL.json``."""
    return FoldFiles(
        prepared.base_manifest, start, prepared.root, f"{out}/users_{{user}}.json", f"{out}/users_{{user}}.csv"
    )


def train_on_folds(
    prepared: Prepared,
    out: Path,
    groups: Sequence[Sequence[Path]],
    recipe: TrainFoldsRecipe | None = None,
    start: Path | None = None,
) -> list[dict[str, Any]]:
    """Train on the folds of groups of users, whose prepared data have these manifests, in one job."""
    recipe = recipe or folds_recipe(prepared)
    execution = Execution.model_validate({**EXECUTION, "micro_batch_size": 2})
    with FoldJob(recipe, execution, "personal", fold_files(prepared, out, start)) as job:
        return [job.train(group) for group in groups]


def with_samples(prepared: Prepared, folder: Path, user: str, samples: Sequence[Any]) -> Path:
    """Write a user's prepared data with other samples, and return the manifest."""
    folder.mkdir(exist_ok=True)
    file, manifest = folder / f"user_{user}.jsonl", folder / f"user_{user}.manifest.json"
    file.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    sha256 = digest_file(file)
    own = read_manifest(prepared.manifest(user))
    write_result(manifest, {**own, "output": sha256, "samples": len(samples), "files": {file.name: sha256}})
    return manifest
