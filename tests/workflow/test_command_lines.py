"""How long the commands of jobs are: they do not grow with the users of a study."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
USERS = 40
EXPERIMENTS = 5


def test_no_command_grows_with_the_users(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    train, test = ([f"{split}-{number}" for number in range(USERS)] for split in ("train", "test"))
    for user in (*train, *test):
        (data / f"user_{user}.jsonl").touch()
    study = {
        "name": "many",
        "results": "results",
        "dataset": {"root": "data"},
        "users": {"train": train, "test": test},
        "base_model": {"path": str(REPOSITORY / "demo/base")},
        "folds": {"count": 2},
        "experiments": {
            **{f"lora_{number}": {"mode": "lora"} for number in range(EXPERIMENTS)},
            "personal": {"mode": "lora", "scope": "personal", "start_from": "lora_0"},
            "pooled": {"mode": "lora", "scope": "pooled", "like": "personal"},
            "swapped": {"mode": "lora", "adapters_of": "personal"},
        },
        # All of them in one job.
        "evaluation": {"users_per_job": USERS},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--dry-run"]
    command += ["--printshellcmds", "--configfile", "study.yaml", "--cores", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if 'python "$USERTUNE_SCRIPTS"' in line]
    steps = {re.search(r"/(\w+)\.py", line)[1] for line in lines}  # type: ignore[index]
    assert steps == {
        "prepare",
        "leakage",
        "base_model",
        "train",
        "train_folds",
        "predict",
        "score",
        "compare",
        "figure",
        "audit",
        "report",
    }
    for line in lines:
        users = set(re.findall(r"\b(?:train|test)-\d+\b", line.replace("test-0_", " ")))
        # A batch of data is named by its users: 10, unless the study sets another number.
        assert len(users) <= 10, f"a command names {len(users)} users: {line}"
        assert len(line) < 2_000, line
    assert not (tmp_path / "results" / "logs" / "job_files").exists(), "planning writes nothing"
