"""What is done again when data change: as little as possible, and nothing when only times changed."""

from __future__ import annotations

import json
import os

import pytest
from workplace import EXPERIMENTS, Workplace

pytestmark = pytest.mark.workflow


def _edit_one_sample(workplace: Workplace, user: int) -> None:
    path = workplace.data / f"user_{user}.jsonl"
    lines = path.read_text().splitlines()
    sample = json.loads(lines[2])
    sample["messages"][0]["content"][1]["text"] += " please"
    lines[2] = json.dumps(sample)
    path.write_text("".join(line + "\n" for line in lines))


def test_one_edited_sample_of_a_test_user(finished: Workplace) -> None:
    trainings, weights = finished.trainings(), finished.weights()
    _edit_one_sample(finished, user=1)
    output = finished.run()
    assert output.count("Job ") > 0
    for experiment in EXPERIMENTS:
        predictions = finished.predictions(experiment)
        assert (predictions["generated"], predictions["reused"]) == (1, 9)
    assert finished.trainings() == trainings
    assert finished.weights() == weights
    assert "Nothing to be done" in finished.run()


def test_touched_dataset(finished: Workplace) -> None:
    trainings, lines = finished.trainings(), finished.stored_lines()
    for path in finished.data.rglob("*"):
        os.utime(path)
    output = finished.run()
    assert "Checking the samples" in output, "times are seen while planning"
    for experiment in EXPERIMENTS:
        assert finished.predictions(experiment)["generated"] == 0
    assert finished.trainings() == trainings
    assert finished.stored_lines() == lines
    assert "Nothing to be done" in finished.run()


def test_new_threshold_needs_no_gpu(finished: Workplace) -> None:
    finished.replace("  batch_size: 10", "  batch_size: 10\n  thresholds: [140, 70]")
    output = finished.run()
    assert "Scoring" in output
    assert "Predicting" not in output
    assert "Training" not in output


def test_other_settings_of_one_experiment_leave_the_others(finished: Workplace) -> None:
    finished.replace("learning_rate: 4e-3", "learning_rate: 5e-3")
    plan = finished.run("--dry-run")
    assert "Training lora" in plan
    assert "Training full" not in plan
    assert "with full" not in plan
    assert "with vanilla" not in plan
    assert "Predicting users 1-2 with lora" in plan
