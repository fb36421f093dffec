"""kill -9 in training on folds: in a fold, while something is written, between folds. The results are the same."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.folds import folds_recipe, train_on_folds
from tests.unit.conftest import EXECUTION, Prepared
from usertune.core.manifest import read_manifest

# Trains on the folds of two users in one job, and kills itself at the given call of a function.
TRAIN_AND_KILL = """
import importlib, json, os, signal, sys
from pathlib import Path
from usertune.training.recipe import Execution, TrainFoldsRecipe
from usertune.training.train_folds import FoldFiles, FoldJob
given = json.loads(sys.argv.pop())
module, _, path = given["where"].partition(":")
*owners, name = path.split(".")
owner = importlib.import_module(module)
for step in owners:
    owner = getattr(owner, step)
original, calls = getattr(owner, name), 0
def call(*arguments, **named):
    global calls
    calls += 1
    if calls == given["call"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **named)
setattr(owner, name, call)
files = FoldFiles(Path(given["base"]), None, Path(given["root"]), given["manifest"], given["losses"])
execution = Execution.model_validate(given["execution"])
with FoldJob(TrainFoldsRecipe.parse(given["recipe"]), execution, "personal", files) as job:
    for data in given["data"]:
        job.train([Path(data)])
"""
# Function and call, each in the process that continues after the one before it.
MOMENTS = (
    ("usertune.training.trainer:SparseLossTrainer.compute_loss", 2),
    ("usertune.training.callbacks:MarkCheckpoints.on_save", 1),
    ("usertune.training.finetune:_save_weights", 1),
    ("usertune.training.working_folder:_digests", 1),
    ("usertune.models.reused:ReusedModel.give_back", 1),
    ("usertune.training.working_folder:_remove_working_checkpoints", 1),
    ("usertune.training.trainer:SparseLossTrainer.compute_loss", 1),
    ("usertune.training.train_folds:write_text", 1),
    ("usertune.training.train_folds:write_result", 1),
    ("usertune.training.trainer:SparseLossTrainer.compute_loss", 3),
)


def test_ten_kills_of_one_job_change_nothing(
    prepared: Prepared, tmp_path: Path, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    users = [prepared.manifest(user) for user in ("1", "2")]
    recipe = folds_recipe(prepared, training={"epochs": 2})
    undisturbed = train_on_folds(prepared, tmp_path / "undisturbed", [[path] for path in users], recipe)
    out = tmp_path / "killed"
    given: dict[str, Any] = {
        "base": prepared.base_manifest,
        "root": prepared.root,
        "manifest": f"{out}/users_{{user}}.json",
        "losses": f"{out}/users_{{user}}.csv",
        "execution": {**EXECUTION, "micro_batch_size": 2, "save_every_steps": 1},
        "recipe": recipe.text(),
        "data": users,
    }
    for where, call in MOMENTS:
        process = run_python(TRAIN_AND_KILL, {**given, "where": where, "call": call}, CUDA_VISIBLE_DEVICES="")
        said = process.communicate(timeout=300)[1]
        assert process.returncode == -signal.SIGKILL, f"{where}, call {call}: {said}"
    process = run_python(TRAIN_AND_KILL, {**given, "where": "json:dumps", "call": 0}, CUDA_VISIBLE_DEVICES="")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
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
