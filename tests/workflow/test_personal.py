"""Weights for each user and fold, by Snakemake: one load of the model in a job, and only what an edit reaches again."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.work import NOTHING
from tests.support.workplace import Workplace, new_workplace
from usertune.demo.dataset import Counts

pytestmark = pytest.mark.workflow
USERS = ("1", "2")
SAMPLES = 8
ON_FOLDS = """\
  personal:
    mode: lora
    scope: personal
    start_from: full
    samples: all
  pooled:
    mode: lora
    scope: pooled
    start_from: full
    like: personal
folds:
  count: 2
training:
  epochs: 1
"""


def study_on_folds(folder: Path) -> Workplace:
    workplace = new_workplace(folder, Counts(train=5, validation=2, test=SAMPLES))
    workplace.replace("  lora:\n    mode: lora\n    training:\n      learning_rate: 4e-3\n", "")
    workplace.replace("training:\n  epochs: 1\n", ON_FOLDS)
    workplace.replace("  warmup_steps: 1\n", "")
    workplace.replace("  batch_size: 4", "  batch_size: 2")
    workplace.replace("  micro_batch_size: 4", "  micro_batch_size: 2")
    return workplace


def folds_of(workplace: Workplace) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return (experiment, users, fold) -> what its manifest says of the training."""
    found = {}
    for path in workplace.results.glob("checkpoints/p*/users_*.json"):
        for fold, record in json.loads(path.read_text())["folds"].items():
            found[path.parent.name, path.stem.removeprefix("users_"), fold] = record
    return found


def trained_since(before: dict[Any, Any], workplace: Workplace) -> set[tuple[str, str, str]]:
    return {key for key, record in folds_of(workplace).items() if record != before.get(key)}


def loads(workplace: Workplace, pattern: str) -> int:
    """Return how often the newest attempts of some jobs loaded a model."""
    return sum(json.loads(path.read_text()).get("model_loads", 0) for path in workplace.results.glob(f"logs/{pattern}"))


def rows_of(workplace: Workplace, experiment: str) -> list[dict[str, str]]:
    with (workplace.results / "tables/samples.csv").open() as table:
        rows = csv.DictReader(line for line in table if not line.startswith("#"))
        return [row for row in rows if row["experiment"] == experiment]


def generated(workplace: Workplace, experiment: str) -> int:
    return int(workplace.json(f"predictions/{experiment}/users_1-2.json")["generated"])


@pytest.mark.timeout(1800)
def test_personal_and_pooled_weights_and_what_changes_repeat(tmp_path: Path) -> None:
    workplace = study_on_folds(tmp_path / "study")
    workplace.run(timeout=900)
    assert NOTHING in workplace.run()
    code, output = workplace.usertune("audit", "--study", "study.yaml")
    assert code == 0, output

    # One load for the folds of both users, and one for the predictions with their adapters.
    for name in (
        "train_folds/personal/users_*",
        "train_folds/pooled/users_*",
        "predict/personal/*",
        "predict/pooled/*",
    ):
        assert loads(workplace, f"{name}.progress.json") == 1, name
    expected = {("personal", user, fold) for user in USERS for fold in "12"} | {
        ("pooled", "1-2", fold) for fold in "12"
    }
    before = folds_of(workplace)
    assert before.keys() == expected
    asked = [(row["user"], row["id"], row["fold"]) for row in rows_of(workplace, "vanilla")]
    assert len(asked) == len(set(asked)) == SAMPLES * len(USERS)
    for experiment in ("full", "personal", "pooled"):
        assert [(row["user"], row["id"], row["fold"]) for row in rows_of(workplace, experiment)] == asked

    # One sample of user 1: the folds that are trained on it, their answers, and nothing of user 2.
    unchanged = (workplace.results / "checkpoints/personal/users_2.json").read_bytes()
    others = edit(workplace, "1")
    workplace.run(timeout=900)
    assert NOTHING in workplace.run()
    assert trained_since(before, workplace) == {("personal", "1", others), ("pooled", "1-2", others)}
    assert (workplace.results / "checkpoints/personal/users_2.json").read_bytes() == unchanged
    of_fold = {user: sum(row[::2] == (user, others) for row in asked) for user in USERS}
    assert generated(workplace, "personal") == of_fold["1"]
    assert generated(workplace, "pooled") == sum(of_fold.values())
    assert generated(workplace, "full") == 0
    logs = workplace.results.glob("logs/score/*/user_2.log")
    assert {log.parent.name for log in logs if ": scored" in log.read_text()} <= {"pooled"}

    # The number of samples of one experiment.
    before = folds_of(workplace)
    workplace.replace("    samples: all", "    samples: 1")
    workplace.run(timeout=900)
    assert trained_since(before, workplace) == {key for key in expected if key[0] == "personal"}
    assert {record["train_samples"] for key, record in folds_of(workplace).items() if key[0] == "personal"} == {1}

    # The training that they start from.
    before = folds_of(workplace)
    workplace.replace(
        "  full:\n    mode: full\n", "  full:\n    mode: full\n    training:\n      learning_rate: 1e-3\n"
    )
    workplace.run(timeout=900)
    assert trained_since(before, workplace) == expected
    assert generated(workplace, "vanilla") == 0

    # The number of folds.
    workplace.replace("  count: 2", "  count: 3")
    workplace.run(timeout=900)
    assert len(folds_of(workplace)) == 9
    code, output = workplace.usertune("audit", "--study", "study.yaml")
    assert code == 0, output


def edit(workplace: Workplace, user: str) -> str:
    """Change the expected answer of a user's first sample; return the other fold, which is trained on it."""
    path = workplace.data / f"user_{user}.jsonl"
    lines = path.read_text().splitlines()
    sample = json.loads(lines[0])
    sample["messages"][-1]["content"] = [{"type": "text", "text": "```grounding\n[7, 8]\n```"}]
    lines[0] = json.dumps(sample)
    path.write_text("\n".join(lines) + "\n")
    (fold,) = {row["fold"] for row in rows_of(workplace, "vanilla") if (row["user"], row["id"]) == (user, sample["id"])}
    return {"1": "2", "2": "1"}[fold]
