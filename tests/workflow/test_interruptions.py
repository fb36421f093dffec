"""Two runs at once, Ctrl-C, and kill -9."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from tests.support.workplace import LOCAL_PROFILE, Workplace, kill_group, new_workplace, wait_until
from usertune.demo.dataset import Counts

pytestmark = pytest.mark.workflow
LORA = "results/checkpoints/lora/manifest.json"


def _half_written(workplace: Workplace) -> list[Path]:
    return [path for path in workplace.results.rglob("*") if path.name.endswith(".tmp") or ".tmp." in path.name]


@pytest.mark.parametrize("second_folder", ["study", "elsewhere"])
def test_two_runs_at_once(workplace: Workplace, tmp_path: Path, second_folder: str) -> None:
    workplace.options = LOCAL_PROFILE
    workplace.replace("results: results", f"results: {workplace.results}")
    workplace.replace("root: data", f"root: {workplace.data}")
    other = Workplace(tmp_path / second_folder, options=LOCAL_PROFILE, runs=100)
    if second_folder != workplace.folder.name:
        other.folder.mkdir()
        shutil.copy(workplace.study, other.study)
    target = str(workplace.folder / LORA)
    first = workplace.start(target)
    try:
        wait_until(lambda: workplace.programs("train"), first)
        (training,) = workplace.programs("train")
        code, output = other.snakemake(target, timeout=60)
        assert code == 1, output
        message = (
            f"{workplace.results}: another snakemake is working on these results (process {first.pid} on "
            f"{socket.gethostname()}, since "
        )
        assert any(line.startswith(message) for line in output.splitlines()), output
        for noise in ("Traceback", "Error", 'File "', "locked"):
            assert noise not in output
        assert first.poll() is None
        assert training.is_running(), "the first run continues"
    finally:
        kill_group(first)
    assert "Training lora" in other.run(target)
    assert (workplace.folder / LORA).is_file()


def test_interrupted_training_resumes(workplace: Workplace) -> None:
    workplace.options = LOCAL_PROFILE
    workplace.replace("  epochs: 1", "  epochs: 15")
    workplace.replace("  save_every_steps: 2", "  save_every_steps: 5")
    first = workplace.start(LORA)
    try:
        # Later than the first checkpoint, so that the one of the interruption is seen to count.
        wait_until(lambda: workplace.newest_checkpoint("lora") >= 10, first)
        os.killpg(first.pid, signal.SIGINT)
        assert first.wait(60) != 0
        assert not workplace.programs("train"), "no other attempt was started"
    finally:
        kill_group(first)
    assert "saving a checkpoint after this step" in workplace.output
    assert workplace.output.count("Interrupted. Finished work is kept") == 1
    assert workplace.json("logs/train/lora.progress.json")["attempt"] == 1, "no other attempt was started"
    assert not (workplace.folder / LORA).exists()
    assert not _half_written(workplace)
    workplace.run(LORA)
    manifest = workplace.json("checkpoints/lora/manifest.json")
    assert 10 <= manifest["resumed_from_step"] < manifest["steps"] == 60
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
    workplace = new_workplace(tmp_path / "study", Counts(train=1, validation=1, test=30))
    workplace.options = LOCAL_PROFILE
    workplace.replace("  batch_size: 10", "  batch_size: 3")
    # Of one step, as many as three samples make.
    workplace.replace("  warmup_steps: 1", "  warmup_steps: 0")
    first = workplace.start("vanilla")
    try:
        wait_until(lambda: len(workplace.stored_lines()) >= 6, first)
    finally:
        kill_group(first)
    before = [json.loads(line)["request"] for line in workplace.stored_lines() if line.endswith("}")]
    assert not (workplace.results / "predictions/vanilla/users_1-2.json").exists()
    workplace.run("vanilla")
    predictions = workplace.predictions("vanilla")
    assert len(predictions["predictions"]) == 60
    after = [json.loads(line)["request"] for line in workplace.stored_lines()]
    assert len(after) - len(set(after)) == 0, "what was stored was not generated again"
    assert predictions["generated"] == len(set(after)) - len(set(before))
    assert 6 <= len(before) < len(after)
