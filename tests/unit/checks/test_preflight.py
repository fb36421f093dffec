"""What is settled while jobs are planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from usertune.checks.preflight import check_sources, gpus_here
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
