"""What is settled while jobs are planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.synthetic_study import SyntheticStudy
from usertune.checks.freshness import Freshness
from usertune.checks.preflight import check_folds, check_sources, gpus_here
from usertune.core.errors import UserError
from usertune.study.load import study_from_config
from usertune.study.schema.experiment import Experiment


@pytest.mark.parametrize(
    ("settings", "available", "expected"),
    [
        ({}, 0, 0),
        ({}, 1, 1),
        ({}, 8, 1),
        ({"gpus": 2}, 2, 2),
        ({"gpus": 2, "parallel": "ddp"}, 0, 0),
    ],
)
def test_a_training_takes_the_gpus_it_asks_for_or_none_where_there_are_none(
    settings: dict[str, Any], available: int, expected: int
) -> None:
    assert gpus_here("one", Experiment(mode="full", **settings), available) == expected


@pytest.mark.parametrize(
    ("settings", "available", "message"),
    [
        ({"gpus": 4}, 2, "experiments.one.gpus is 4, but this machine has 2 usable; set gpus: 2"),
        ({"nodes": 2}, 8, "experiments.one.nodes is 2, but this run has one machine; run it on a cluster"),
        ({"gpus": 2}, 0, "experiments.one shares one model between 2 GPUs .parallel: auto., but this machine has none"),
    ],
)
def test_what_this_machine_cannot_do_is_reported_before_anything_runs(
    settings: dict[str, Any], available: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        gpus_here("one", Experiment(mode="full", **settings), available)


def test_a_warm_up_that_reaches_the_number_of_steps_is_refused_while_jobs_are_planned(tmp_path: Path) -> None:
    data, base = tmp_path / "data", Path(__file__).parents[3] / "demo/base"
    data.mkdir()
    for user, lines in (("1", 5), ("11", 30), ("12", 2)):
        (data / f"user_{user}.jsonl").write_text("{}\n" * lines + "\n")

    def check(warmup_steps: int) -> None:
        study = {
            "name": "small",
            "dataset": {"root": str(data)},
            "users": {"train": "11-12", "test": 1},
            "base_model": {"path": str(base)},
            "experiments": {"lora": {"mode": "lora"}},
            "training": {"warmup_steps": warmup_steps, "batch_size": 8, "epochs": 2},
        }
        check_sources(study_from_config(study))

    check(7)
    with pytest.raises(UserError, match=r"warmup_steps of experiment lora is 8, .* 8 steps \(32 samples, .* write war"):
        check(8)


def test_prepared_users_with_too_few_episodes_for_the_folds_are_named_when_jobs_are_planned(tmp_path: Path) -> None:
    study = SyntheticStudy(tmp_path, users=["1", "2"], samples=4, episodes=2, changes={"folds": {"count": 3}})

    def check() -> None:
        check_folds(Freshness(study.study, study.recipes))

    for user in study.study.all_users:
        study.write_raw(user)
    check()  # Nobody is prepared yet; preparing will say it.
    for user in ("1", "t1"):
        study.make(f"data/user_{user}.manifest.json")
    with pytest.raises(UserError) as caught:
        check()
    assert str(caught.value).startswith("user 1 has 2 episodes, which is too few for 3 folds")
    assert "user 2" not in str(caught.value)
    study.episodes = 4
    study.write_raw("1")
    check()  # The samples changed since they were prepared.
    study.make("data/user_1.manifest.json")
    check()
