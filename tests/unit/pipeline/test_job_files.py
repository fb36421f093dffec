"""Files for what is too long for a command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from usertune.pipeline.job_files import JobFiles
from usertune.pipeline.recipes import Recipes
from usertune.study.load import study_from_config

# Limits of Linux (execve): one argument, and all of them.
ARGUMENT, COMMAND = 128 * 1024, 2 * 1024 * 1024
USERS = [f"participant-{number:05}" for number in range(10_000)]
EXPERIMENTS = [f"experiment_{number}" for number in range(5)]


def test_planning_writes_nothing_and_a_run_writes_everything(tmp_path: Path) -> None:
    files = JobFiles(str(tmp_path / "job_files"), write_at_once=False)
    recipe, listed = files.text("train.json", '{"step":"train"}'), files.lines("users.txt", ["a b", "c"])
    assert not (tmp_path / "job_files").exists()
    files.start()
    assert Path(recipe).read_text(encoding="utf-8") == '{"step":"train"}'
    assert Path(listed).read_text(encoding="utf-8") == "a b\nc\n"
    assert Path(files.text("late.json", "{}")).exists()


def test_a_job_writes_at_once_what_the_plan_named(tmp_path: Path) -> None:
    plan, job = (JobFiles(str(tmp_path), write_at_once=at_once) for at_once in (False, True))
    path = plan.lines("users.txt", ["1", "2"])
    assert job.lines("users.txt", ["1", "2"]) == path
    assert Path(path).read_text(encoding="utf-8") == "1\n2\n"


def test_other_content_is_another_file(tmp_path: Path) -> None:
    files = JobFiles(str(tmp_path), write_at_once=False)
    assert files.lines("users.txt", ["1"]) != files.lines("users.txt", ["2"])


def test_an_item_with_a_line_break_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line break"):
        JobFiles(str(tmp_path), write_at_once=False).lines("users.txt", ["a\nb"])


def test_ten_thousand_users_and_five_experiments_fit_in_a_command(tmp_path: Path) -> None:
    half = len(USERS) // 2
    study = study_from_config(
        {
            "name": "many",
            "results": str(tmp_path),
            "dataset": {"root": "data"},
            "users": {"train": USERS[:half], "test": USERS[half:]},
            "base_model": {"path": "base"},
            "experiments": {name: {"mode": "lora"} for name in EXPERIMENTS},
        }
    )
    recipes = Recipes(study)
    texts = [recipes.train(EXPERIMENTS[0]), recipes.compare(), recipes.report(), study.model_dump_json()]
    scores = [f"{tmp_path}/scores/{name}/user_{user}.json" for name in EXPERIMENTS for user in study.users.test]
    assert max(map(len, texts)) > ARGUMENT
    assert sum(map(len, scores)) > COMMAND // 2
    files = JobFiles(f"{tmp_path}/job_files", write_at_once=True)
    paths = [*(files.text("recipe.json", text) for text in texts), files.lines("scores.txt", scores)]
    assert max(map(len, paths)) < len(str(tmp_path)) + 60
    assert Path(paths[-1]).read_text(encoding="utf-8").splitlines() == scores
