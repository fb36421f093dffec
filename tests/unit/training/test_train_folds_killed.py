"""kill -9 in training on folds: in a fold, while something is written, between folds. The results are the same."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.support.folds import fold_files, folds_recipe, train_on_folds
from tests.support.killed import exit_code
from tests.unit.conftest import EXECUTION, Prepared
from usertune.core.manifest import read_manifest
from usertune.training.recipe import Execution, TrainFoldsRecipe
from usertune.training.train_folds import FoldFiles, FoldJob

# Function and call, each in the process that continues after the one before it.
MOMENTS = (
    ("usertune.training.trainer:SparseLossTrainer.compute_loss", 2),
    ("usertune.training.callbacks:MarkCheckpoints.on_save", 1),
    ("usertune.training.finetune:save_weights", 1),
    ("usertune.training.working_folder:_digests", 1),
    ("usertune.models.reused:ReusedModel.give_back", 1),
    ("usertune.training.working_folder:_remove_working_checkpoints", 1),
    ("usertune.training.trainer:SparseLossTrainer.compute_loss", 1),
    ("usertune.training.train_folds:write_text", 1),
    ("usertune.training.train_folds:write_result", 1),
    ("usertune.training.trainer:SparseLossTrainer.compute_loss", 3),
)


def train(recipe: TrainFoldsRecipe, files: FoldFiles, users: Sequence[Path]) -> None:
    """Train on the folds of each of these users, in one job that saves after each step."""
    execution = Execution.model_validate({**EXECUTION, "micro_batch_size": 2, "save_every_steps": 1})
    with FoldJob(recipe, execution, "personal", files) as job:
        for data in users:
            job.train([data])


def test_ten_kills_of_one_job_change_nothing(prepared: Prepared, tmp_path: Path) -> None:
    users = [prepared.manifest(user) for user in ("1", "2")]
    recipe = folds_recipe(prepared, training={"epochs": 2})
    undisturbed = train_on_folds(prepared, tmp_path / "undisturbed", [[path] for path in users], recipe)
    out = tmp_path / "killed"
    work = (train, recipe, fold_files(prepared, out), users)
    for where, call in MOMENTS:
        assert exit_code(*work, where=where, call=call) == -signal.SIGKILL, (where, call)
    assert exit_code(*work) == 0
    for before in undisturbed:
        label = before["users"][0]
        after = read_manifest(out / f"users_{label}.json")
        assert after["output"] == before["output"]
        for fold, record in after["folds"].items():
            for key in ("fingerprint", "weights_files", "losses_sha256", "steps", "held_out"):
                assert record[key] == before["folds"][fold][key], (label, fold, key)
        table = f"users_{label}.csv"
        assert (out / table).read_text() == (tmp_path / "undisturbed" / table).read_text()
    assert max(record["attempts"] for record in read_manifest(out / "users_1.json")["folds"].values()) > 2
    assert "resumed" in json.dumps(read_manifest(out / "users_1.json"))
