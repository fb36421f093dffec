"""Trainings on folds are jobs of the cluster: one for a batch of users, with what each of its users shows."""

from __future__ import annotations

import json

import pytest

from tests.slurm.conftest import on_cluster
from tests.support.slurm_cluster import Cluster
from tests.support.workplace import Workplace
from usertune.cluster.job_names import JOURNAL

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


def test_one_job_trains_the_folds_of_a_batch_of_users(cluster: Cluster, workplace: Workplace) -> None:
    workplace.replace("  lora:\n    mode: lora\n", "  lora:\n    mode: lora\n    scope: personal\n")
    workplace.replace("evaluation:\n", "folds: {count: 2, by: random}\nevaluation:\n")
    workplace.replace("  warmup_steps: 1\n", "")
    workplace = on_cluster(workplace, cluster)
    workplace.run("results/checkpoints/lora/users_2.json", timeout=500)
    entries = [json.loads(line) for line in (workplace.results / JOURNAL).read_text().splitlines()]
    assert {entry["rule"] for entry in entries if entry["event"] == "submitted"} == {"train_folds-lora-users-1-2"}
    assert [entry["state"] for entry in entries if entry["event"] == "ended"] == ["COMPLETED"]
    assert len(workplace.json("checkpoints/lora/users_1.json")["folds"]) == 2
    _, said = workplace.usertune("status", "--study", "study.yaml", "--json")
    rows = [row for row in json.loads(said)["rows"] if row["step"] == "train_folds"]
    assert [(row["users"], row["state"]) for row in rows] == [(["1"], "done"), (["2"], "done")], said
    (number,) = {entry["job"] for entry in entries}
    assert {row["slurm_job"] for row in rows} == {number}
