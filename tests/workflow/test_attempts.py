"""Further attempts at a job: after an out-of-memory error, and after a stop request of the scheduler."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.workplace import LOCAL_PROFILE, REPOSITORY, Workplace, kill_group, new_workplace, wait_until
from usertune.demo.dataset import Counts

pytestmark = pytest.mark.workflow
FULL = "results/checkpoints/full/manifest.json"
RETRY = "Trying to restart job"

# Python imports this module itself. Memory runs out as on a GPU: in the first layer that gets too large a batch.
SMALL_MEMORY = """\
import importlib.machinery, os, sys

ROWS = int(os.environ["ROWS_IN_MEMORY"])
NAME = "torch.nn.functional"


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (load(module), limit(module))
        return spec


def limit(functional):
    attend = functional.scaled_dot_product_attention

    def attention(query, *arguments, **settings):
        if query.shape[0] > ROWS:
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return attend(query, *arguments, **settings)

    functional.scaled_dot_product_attention = attention


sys.meta_path.insert(0, Finder())
"""


@pytest.fixture
def workplace(workplace: Workplace) -> Workplace:
    """A study with the same sums in every attempt: the full mode has no dropout."""
    workplace.options = LOCAL_PROFILE
    return workplace


def _with_memory_for(workplace: Workplace, rows: int) -> None:
    folder = workplace.folder / "hook"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SMALL_MEMORY)
    workplace.environment |= {"PYTHONPATH": str(folder), "ROWS_IN_MEMORY": str(rows)}


def _losses(workplace: Workplace) -> str:
    return (workplace.results / "checkpoints/full/training_log.csv").read_text()


def test_out_of_memory_is_tried_again_with_a_smaller_micro_batch(workplace: Workplace) -> None:
    _with_memory_for(workplace, rows=2)
    output = workplace.run(FULL)
    assert output.count(RETRY) == 1
    assert "out of memory with training.micro_batch_size 4 (CUDA out of memory" in output
    assert "set micro_batch_size lower, or gradient_checkpointing: true" in output
    assert "Traceback" not in output
    manifest = workplace.json("checkpoints/full/manifest.json")
    assert manifest["micro_batch_size"] == 2
    losses = _losses(workplace)

    workplace.results.rename(workplace.folder / "second-attempt")
    workplace.replace("  micro_batch_size: 4", "  micro_batch_size: 2")
    assert RETRY not in workplace.run(FULL)
    undisturbed = workplace.json("checkpoints/full/manifest.json")
    assert undisturbed["micro_batch_size"] == 2
    assert _losses(workplace) == losses
    for key in ("weights_fingerprint", "fingerprint", "steps"):
        assert undisturbed[key] == manifest[key], key


def test_no_attempt_helps(workplace: Workplace) -> None:
    _with_memory_for(workplace, rows=0)
    code, output = workplace.snakemake(FULL)
    assert code != 0
    assert output.count(RETRY) == 2
    for micro_batch_size in (4, 2, 1):
        assert f"out of memory with training.micro_batch_size {micro_batch_size} (" in output
    assert "lower base_model.max_pixels" in output
    assert "Traceback" not in output
    assert not (workplace.folder / FULL).exists()


def test_a_training_that_is_not_finite_stops_and_is_not_tried_again_in_the_same_run(workplace: Workplace) -> None:
    workplace.replace("learning_rate: 4e-3", "learning_rate: 1e30")
    code, output = workplace.snakemake("results/checkpoints/lora/manifest.json")
    assert code != 0
    assert output.count(RETRY) == 2
    messages = [line.strip() for line in output.splitlines() if line.startswith("    training stopped ")]
    assert len(messages) == 3, output
    assert "not finite" in messages[0] or "is nan" in messages[0]
    assert "lower training.learning_rate (it is 1e+30)" in messages[0]
    for again in messages[1:]:
        assert again == f"{messages[0]} (the previous attempt failed with this error; this one was not started)"
    assert "Traceback" not in output
    assert "this should not have happened" not in output
    assert not list(workplace.results.glob("checkpoints/lora/*/weights"))
    # The first attempt of another run does begin.
    code, output = workplace.snakemake("results/checkpoints/lora/manifest.json", "--retries", "0")
    assert code != 0
    assert "was not started" not in output
    assert messages[0] in output


def test_what_can_only_fail_again_is_tried_once(workplace: Workplace) -> None:
    (workplace.data / "user_1.jsonl").write_text("no sample\n")
    code, output = workplace.snakemake("results/data/user_1.manifest.json")
    assert code != 0
    assert "user_1.jsonl:1:" in output
    assert RETRY not in output


def test_resources_grow_with_the_attempt(workplace: Workplace) -> None:
    # Snakemake prints resources only of jobs without a message.
    workplace.repository = workplace.folder / "repository"
    workplace.repository.mkdir()
    for name in ("rules", "scripts", "src"):
        (workplace.repository / name).symlink_to(REPOSITORY / name)
    without_messages = "\nfor each in workflow.rules:\n    each.message = None\n"
    (workplace.repository / "Snakefile").write_text((REPOSITORY / "Snakefile").read_text() + without_messages)
    for attempt in (1, 2, 3):
        output = workplace.run("--dry-run", "--attempt", str(attempt), "full")
        train, predict = (_resources(output, rule) for rule in ("train", "predict"))
        assert train == {"mem_mb": 64_000 * attempt, "runtime": 1440 * attempt}
        assert predict == {"mem_mb": 32_000 * attempt, "runtime": 240 * attempt}


def _resources(output: str, rule: str) -> dict[str, int]:
    block = output.partition(f"rule {rule}:\n")[2]
    line = next(line for line in block.splitlines() if line.startswith("    resources: "))
    found = dict(item.split("=") for item in line.removeprefix("    resources: ").split(", "))
    return {name: int(found[name]) for name in ("mem_mb", "runtime")}


def test_training_resumes_after_a_stop_request(tmp_path: Path) -> None:
    # One long epoch; the loader's worker is needed in the middle of it. TMPDIR is too long for its socket.
    workplace = new_workplace(tmp_path / ("study" * 20), Counts(train=20, validation=1, test=1))
    workplace.options = LOCAL_PROFILE
    workplace.replace("  save_every_steps: 2", "  save_every_steps: 3")
    workplace.replace("  dataloader_num_workers: 0", "  dataloader_num_workers: 1")
    run = workplace.start(FULL)
    stopped_at: list[int] = []
    try:
        for number in (signal.SIGUSR1, signal.SIGTERM):
            before = workplace.newest_checkpoint("full")
            wait_until(lambda: workplace.newest_checkpoint("full") > before and workplace.programs("train"), run)  # noqa: B023
            (training,) = workplace.programs("train")
            command, environment = training.cmdline(), training.environ()
            training.send_signal(number)
            wait_until(lambda: not training.is_running(), run)  # noqa: B023
            stopped_at.append(workplace.newest_checkpoint("full"))
        assert run.wait(400) == 0, workplace.output
    finally:
        kill_group(run)
    assert workplace.output.count(RETRY) == 2
    for name in ("SIGUSR1", "SIGTERM"):
        assert f"{name}: saving a checkpoint after this step" in workplace.output
    assert "Traceback" not in workplace.output
    manifest = workplace.json("checkpoints/full/manifest.json")
    assert 0 < stopped_at[0] < stopped_at[1] == manifest["resumed_from_step"] < manifest["steps"] == 15
    assert manifest["micro_batch_size"] == 4, "memory was not the reason"
    after_attempts = _losses(workplace)

    # As schedulers do it: the signal reaches the loader's worker, too. The command is that of the second attempt.
    def train(group_signal: signal.Signals | None = None) -> int:
        process = subprocess.Popen(command, cwd=workplace.folder, env=environment, start_new_session=True, text=True)
        try:
            if group_signal:
                wait_until(lambda: workplace.newest_checkpoint("full") > 0, process)
                os.killpg(process.pid, group_signal)
            return process.wait(300)
        finally:
            kill_group(process)

    shutil.rmtree(workplace.results / "checkpoints")
    assert train(signal.SIGTERM) == 75
    left = workplace.newest_checkpoint("full")
    assert train() == 0
    assert workplace.json("checkpoints/full/manifest.json")["resumed_from_step"] == left > 0
    after_group_signal = _losses(workplace)
    shutil.rmtree(workplace.results / "checkpoints")
    assert train() == 0
    assert workplace.json("checkpoints/full/manifest.json")["resumed_from_step"] == 0
    assert _losses(workplace) == after_group_signal == after_attempts


def test_prediction_resumes_after_a_stop_request(tmp_path: Path) -> None:
    workplace = new_workplace(tmp_path / "study", Counts(train=1, validation=1, test=30))
    workplace.options = LOCAL_PROFILE
    workplace.replace("  batch_size: 10", "  batch_size: 3")
    workplace.replace("  warmup_steps: 1", "  warmup_steps: 0")
    run = workplace.start("vanilla")
    stored = 0
    try:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            wait_until(lambda: len(workplace.stored_lines()) > stored and workplace.programs("predict"), run)  # noqa: B023
            (predicting,) = workplace.programs("predict")
            predicting.send_signal(number)
            wait_until(lambda: not predicting.is_running(), run)  # noqa: B023
            stored = len(workplace.stored_lines())
        assert run.wait(400) == 0, workplace.output
    finally:
        kill_group(run)
    assert workplace.output.count(RETRY) == 2
    assert "Traceback" not in workplace.output
    assert workplace.predictions("vanilla")["generated"] == 60 - stored > 0
    assert len(set(workplace.stored_lines())) == len(workplace.stored_lines()) == 60, "nothing was generated twice"
