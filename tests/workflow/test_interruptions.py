"""Two runs at once, Ctrl-C, and kill -9."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from workplace import Workplace, kill_group, new_workplace, wait_until

from usertune.demo.dataset import Counts

pytestmark = pytest.mark.workflow
LORA = "results/checkpoints/lora/manifest.json"


def _half_written(workplace: Workplace) -> list[Path]:
    return [path for path in workplace.results.rglob("*") if path.name.endswith(".tmp") or ".tmp." in path.name]


def test_two_runs_at_once(workplace: Workplace) -> None:
    first = workplace.start(LORA)
    try:
        wait_until(lambda: "Training lora" in workplace.output, first)
        code, output = workplace.snakemake(LORA, timeout=60)
        assert first.poll() is None, "the first run goes on"
        assert code != 0
        assert "cannot be locked" in output
        assert "--unlock" in output
    finally:
        kill_group(first)


def test_interrupted_training_resumes(workplace: Workplace) -> None:
    workplace.replace("  epochs: 1", "  epochs: 30")
    workplace.replace("  save_every_steps: 2", "  save_every_steps: 10")
    first = workplace.start(LORA)
    try:
        # Later than the first checkpoint, so that the one of the interruption is seen to count.
        wait_until(lambda: list(workplace.results.glob("checkpoints/lora/*/checkpoint-20/complete.json")), first)
        os.killpg(first.pid, signal.SIGINT)
        assert first.wait(60) != 0
    finally:
        kill_group(first)
    assert "saving a checkpoint after this step" in workplace.output
    assert not (workplace.folder / LORA).exists()
    assert not _half_written(workplace)
    workplace.run(LORA)
    manifest = workplace.json("checkpoints/lora/manifest.json")
    assert 20 <= manifest["resumed_from_step"] < manifest["steps"] == 120
    assert not list(workplace.results.glob("checkpoints/lora/*/checkpoint-*"))
    assert not _half_written(workplace)
    resumed = (workplace.results / "checkpoints/lora/training_log.csv").read_text()

    workplace.results.rename(workplace.folder / "interrupted")
    workplace.run(LORA)
    undisturbed = workplace.json("checkpoints/lora/manifest.json")
    assert undisturbed["resumed_from_step"] == 0
    assert (workplace.results / "checkpoints/lora/training_log.csv").read_text() == resumed
    assert undisturbed["weights_fingerprint"] == manifest["weights_fingerprint"]


def test_killed_prediction_repeats_at_most_one_batch(tmp_path: Path) -> None:
    workplace = new_workplace(tmp_path / "place", Counts(train=1, validation=1, test=30))
    workplace.replace("  batch_size: 10", "  batch_size: 3")
    first = workplace.start("vanilla")
    try:
        wait_until(lambda: len(workplace.stored_lines()) >= 6, first)
    finally:
        kill_group(first)
    before = [json.loads(line)["request"] for line in workplace.stored_lines() if line.endswith("}")]
    assert not (workplace.results / "predictions/vanilla/users_1-2.json").exists()
    code, output = workplace.snakemake("vanilla", "--rerun-incomplete")
    if "cannot be locked" in output:
        workplace.run("--unlock")
        code, output = workplace.snakemake("vanilla", "--rerun-incomplete")
    assert code == 0, output
    predictions = workplace.predictions("vanilla")
    assert len(predictions["predictions"]) == 60
    after = [json.loads(line)["request"] for line in workplace.stored_lines()]
    assert len(after) - len(set(after)) == 0, "what was stored was not generated again"
    assert predictions["generated"] == len(set(after)) - len(set(before))
    assert 6 <= len(before) < len(after)
