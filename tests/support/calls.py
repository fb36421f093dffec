"""Steps by flat arguments, as tests write them and as JSON carries them to other processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from usertune.data.prepare import prepare_user
from usertune.data.recipe import PrepareRecipe
from usertune.evaluation.recipe import ScoreRecipe
from usertune.evaluation.score import ScoreFiles, score_user
from usertune.inference.generate import Means
from usertune.inference.other_jobs import Others
from usertune.inference.predict import predict_users
from usertune.inference.predict_job import PredictFiles
from usertune.inference.recipe import PredictRecipe
from usertune.models.recipe import Pixels
from usertune.training.processes import ALONE, Processes
from usertune.training.recipe import Execution, TrainRecipe
from usertune.training.train import Allotment, TrainFiles, train_experiment

Name = str | Path
NO_LIMITS = Pixels(min=None, max=None)
PREPARE = PrepareRecipe(step="prepare", format="messages", task="grounding", on_bad_sample="error")


def prepare_one(root: Path, user: str, samples: Path, manifest: Path, **recipe: Any) -> dict[str, Any]:
    """Prepare a user by `PREPARE` with some other keys."""
    settings = PrepareRecipe.model_validate({**PREPARE.as_json(), **recipe})
    return prepare_user(settings, root, user, samples, manifest)


def train(
    recipe: Mapping[str, Any],
    execution: Mapping[str, Any],
    experiment: str,
    base_manifest: Name,
    train_manifests: Sequence[Name],
    validation_manifests: Sequence[Name],
    dataset_root: Name,
    manifest_file: Name,
    log_file: Name,
    processes: Processes = ALONE,
    **allotment: int,
) -> dict[str, Any]:
    """Call `train_experiment`."""
    files = TrainFiles(
        base_model=Path(base_manifest),
        train=[Path(path) for path in train_manifests],
        validation=[Path(path) for path in validation_manifests],
        dataset_root=Path(dataset_root),
        manifest=Path(manifest_file),
        losses=Path(log_file),
    )
    return train_experiment(
        TrainRecipe.model_validate(recipe),
        Execution.model_validate(execution),
        experiment,
        files,
        Allotment(processes=processes, **allotment),
    )


def predict(
    recipe: Mapping[str, Any],
    experiment: str,
    base_manifest: Name,
    train_manifest: Name | None,
    user_manifests: Sequence[Name],
    dataset_root: Name,
    store_folder: Name,
    predictions_file: Name,
    batch_size: int = 8,
    gpus: int = 0,
    engine: Mapping[str, Any] | None = None,
    weights_manifests: Sequence[Name] = (),
    start_manifest: Name | None = None,
    context_manifests: Sequence[Name] = (),
    others: Others | None = None,
) -> dict[str, Any]:
    """Call `predict_users`; the weights are those of a training for all users, or of trainings on folds."""
    weights = [*weights_manifests, *([] if train_manifest is None else [train_manifest])]
    files = PredictFiles(
        base_model=Path(base_manifest),
        weights=[Path(path) for path in weights],
        start=None if start_manifest is None else Path(start_manifest),
        users=[Path(path) for path in user_manifests],
        dataset_root=Path(dataset_root),
        store=Path(store_folder),
        predictions=Path(predictions_file),
        context=[Path(path) for path in context_manifests],
    )
    means = Means(batch_size, gpus, engine or {})
    return predict_users(PredictRecipe.model_validate(recipe), experiment, files, means, others or Others())


def score(
    recipe: Mapping[str, Any],
    experiment: str,
    user: str,
    samples: Path,
    predictions: Path,
    rows: Path,
    metrics: Path,
    store: Path,
) -> dict[str, Any]:
    """Call `score_user`."""
    files = ScoreFiles(samples, predictions, rows, metrics, store)
    return score_user(ScoreRecipe.model_validate(recipe), experiment, user, files)
