"""Several processes that train one model: real ones, started by torchrun, on the CPU."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.support.calls import train
from tests.unit.conftest import BASE, EXECUTION, WITH_ARGUMENTS, Prepared
from usertune.core.errors import FinalError, UserError
from usertune.core.manifest import read_result
from usertune.runtime.step_main import EXIT_TRY_AGAIN, EXIT_USER_ERROR
from usertune.training.callbacks import newest_checkpoint
from usertune.training.distributed.launch import EXCHANGE
from usertune.training.processes import Processes
from usertune.training.train import WEIGHTS

TWO = Processes(nproc_per_node=2)
ALONE = Processes()
# Seconds, on a machine that others use, too.
PATIENCE = 200

# Trains with these arguments, as scripts/train.py does.
TRAIN = f"""{WITH_ARGUMENTS}
from usertune.runtime import step_main
from usertune.training.processes import Processes
from tests.support.calls import train
processes = Processes(nproc_per_node=arguments.pop("nproc_per_node"))
step_main.run(step_main.argument_parser("train"), lambda _: train(**arguments, processes=processes))
"""

# One of two processes that train with FSDP. accelerate shards on GPUs only, so its choice is corrected here; what
# follows from it is the Trainer's, accelerate's, torch's and this package's own.
SHARDED = """
import json, os, sys
from pathlib import Path
import accelerate.state
import torch.distributed as dist
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from usertune.training import finetune
from usertune.training.callbacks import StopTogether
from usertune.data.samples import read_user
from usertune.core.errors import StopRequested
from usertune.training.processes import Processes
from usertune.training.recipe import Execution, TrainRecipe

task = json.loads(sys.argv[1])
original = accelerate.state.AcceleratorState.__init__
def choose(self, *arguments, fsdp_plugin=None, **others):
    original(self, *arguments, fsdp_plugin=fsdp_plugin, **others)
    if fsdp_plugin is not None:
        assert self.distributed_type == DistributedType.MULTI_CPU
        self.distributed_type = DistributedType.FSDP
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.fsdp_plugin = fsdp_plugin
accelerate.state.AcceleratorState.__init__ = choose

class Stop(StopTogether):
    def on_step_end(self, args, state, control, **rest):
        self._stop_signal = lambda: 15 if state.global_step == task["stop_after"] else None
        return super().on_step_end(args, state, control, **rest)

original_save = finetune._save_weights
def save(trainer, *rest):
    units = [name for name, module in trainer.model.named_modules() if isinstance(module, FSDPModule)]
    policies = {str(module._get_fsdp_state()._mp_policy) for module in trainer.model.modules()
                if isinstance(module, FSDPModule)}
    kinds = {str(weights.dtype) for weights in trainer.model.parameters()}
    if dist.get_rank() == 0:
        (out / "units.json").write_text(json.dumps([units, sorted(policies), sorted(kinds)]))
    return original_save(trainer, *rest)
finetune._save_weights = save

samples = [[sample for file in task[key] for sample in read_user(Path(file))[1]] for key in ("train", "validation")]
out = Path(task["out"])
run = finetune.FineTuning(
    TrainRecipe.model_validate({**task["recipe"], "dtype": task["dtype"]}), Execution.model_validate(task["execution"]),
    Path(task["base"]), Path(task["root"]), *samples, Processes(nproc_per_node=2, strategy="fsdp"),
)
try:
    measured = finetune.fine_tune(run, out / "work", out / "weights", out / "log.csv", Stop(lambda: None))
    if dist.get_rank() == 0:
        (out / "measured.json").write_text(json.dumps(measured))
except StopRequested:
    assert task["stop_after"]
dist.destroy_process_group()
# As usertune.training.distributed.training_process leaves: torch's threads sometimes abort while the interpreter ends.
os._exit(0)
"""

Start = Callable[..., subprocess.Popen[str]]


def _arguments(prepared: Prepared, out: Path, mode: str = "lora", epochs: int = 2, **execution: Any) -> dict[str, Any]:
    """Return a training on 17 samples in steps of 4: the last step of an epoch has one."""
    arguments = prepared.train_arguments(out, prepared.train_recipe(mode, epochs=epochs))
    arguments["train_manifests"] = [prepared.manifest(user) for user in ("11", "12", "1")]
    arguments["execution"] = {**EXECUTION, "micro_batch_size": 1, **execution}
    return arguments


def _table(path: Path) -> list[tuple[str, str, float]]:
    with path.open(newline="") as table:
        return [(row["step"], row["split"], float(row["loss"])) for row in csv.DictReader(table)]


def _assert_same_losses(found: Path, expected: Path) -> None:
    assert [row[:2] for row in _table(found)] == [row[:2] for row in _table(expected)]
    assert [row[2] for row in _table(found)] == pytest.approx([row[2] for row in _table(expected)], rel=1e-4)


def _assert_same_weights(found: Path, expected: Path, tolerance: float = 1e-4) -> None:
    assert sorted(path.name for path in found.iterdir()) == sorted(path.name for path in expected.iterdir())
    (file,) = expected.glob("*.safetensors")
    weights = load_file(found / file.name)
    reference = load_file(file)
    assert weights.keys() == reference.keys()
    for name, value in reference.items():
        assert (weights[name].shape, weights[name].dtype) == (value.shape, value.dtype)
        torch.testing.assert_close(weights[name], value, rtol=0, atol=tolerance)


def _weights(out: Path) -> Path:
    return out / str(read_result(out / "manifest.json")["weights_folder"])


def _work(out: Path) -> Path:
    (work,) = (path for path in out.iterdir() if path.is_dir())
    return work


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_two_processes_train_what_one_trains(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    # Left behind by another launcher: they do not count.
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "MASTER_PORT": "1", "PET_NNODES": "2"}.items():
        monkeypatch.setenv(name, value)
    one, two = tmp_path / "one", tmp_path / "two"
    train(**_arguments(prepared, one, mode))
    manifest = train(**_arguments(prepared, two, mode, gradient_checkpointing=True), processes=TWO)
    _assert_same_losses(two / "log.csv", one / "log.csv")
    _assert_same_weights(_weights(two), _weights(one))
    alone = read_result(one / "manifest.json")
    assert manifest["fingerprint"] == alone["fingerprint"]
    assert manifest.keys() == alone.keys()
    assert (manifest["processes"], manifest["parallel"], manifest["gpus_used"]) == (2, "ddp", [])
    assert (alone["processes"], alone["parallel"], alone["gpus_used"]) == (1, None, [])
    assert not list(_work(two).glob(f"{EXCHANGE}*"))
    # The work is found done, by however many.
    assert train(**_arguments(prepared, two, mode)) == manifest


def test_sharding_without_gpus_is_refused_and_not_replaced_by_something_else(
    prepared: Prepared, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        train(**_arguments(prepared, tmp_path, "full"), processes=replace(TWO, strategy="fsdp"))
    assert str(refused.value) == (
        "training should run as 2 processes with fsdp, but was set up as 2 processes with ddp; there is no GPU here, "
        "and FSDP needs GPUs: set parallel: ddp for this experiment"
    )
    assert not (tmp_path / "manifest.json").exists()


def test_a_loss_that_is_not_finite_in_one_process_stops_all_with_one_message(
    prepared: Prepared, tmp_path: Path
) -> None:
    arguments = _arguments(prepared, tmp_path, save_every_steps=1)
    arguments["recipe"]["training"] |= {"learning_rate": 1e30, "warmup_steps": 0}
    with pytest.raises(FinalError, match=r"^training stopped at step 2 of 10, .* the loss is nan, .*samples: 1"):
        train(**arguments, processes=TWO)
    assert not list(tmp_path.rglob(WEIGHTS))


def test_two_nodes_need_a_slurm_job(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match="nodes: 2 needs a SLURM job, and this is not one"):
        train(**_arguments(prepared, tmp_path), processes=Processes(nodes=2))


@pytest.fixture(scope="module")
def undisturbed(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of 40 steps by one process."""
    out = tmp_path_factory.mktemp("undisturbed")
    train(**_arguments(prepared, out, epochs=8))
    return out


def _complete_checkpoints(out: Path) -> Iterator[Path]:
    return out.glob("*/checkpoint-*/complete.json")


def _start(
    run_python: Start, prepared: Prepared, out: Path, nproc_per_node: int, mode: str = "lora", epochs: int = 8
) -> subprocess.Popen[str]:
    """Start a training, that of `undisturbed` if no other is named, and wait until it has a new checkpoint."""
    arguments = _arguments(prepared, out, mode, epochs, save_every_steps=1)
    before = set(_complete_checkpoints(out))
    process = run_python(TRAIN, {**arguments, "nproc_per_node": nproc_per_node})
    deadline = time.monotonic() + PATIENCE
    while set(_complete_checkpoints(out)) <= before:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def _request_stop(process: subprocess.Popen[str]) -> str:
    """Send a training SIGTERM, and return what it said on standard error."""
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == EXIT_TRY_AGAIN, error
    return error


def _finish(prepared: Prepared, out: Path, undisturbed: Path, processes: Processes) -> None:
    """Resume the same training from its checkpoint, and compare the results."""
    checkpoint = newest_checkpoint(_work(out))
    assert checkpoint is not None
    step = int(checkpoint.name.rpartition("-")[2])
    manifest = train(**_arguments(prepared, out, epochs=8), processes=processes)
    assert 0 < manifest["resumed_from_step"] == step < manifest["steps"] == 40
    _assert_same_losses(out / "log.csv", undisturbed / "log.csv")
    _assert_same_weights(_weights(out), _weights(undisturbed), tolerance=1e-3)


def _children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def _workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [
        child for child in _children(process) if "usertune.training.distributed.training_process" in child.cmdline()
    ]


def test_a_run_resumes_with_more_and_with_fewer_processes(
    prepared: Prepared, tmp_path: Path, undisturbed: Path, run_python: Start
) -> None:
    """One process, then two, two again, and finally one: the result is that of an undisturbed training."""
    _request_stop(_start(run_python, prepared, tmp_path, nproc_per_node=1))
    error = _request_stop(_start(run_python, prepared, tmp_path, nproc_per_node=2))
    assert "interrupted; finished work is kept" in error
    assert "Traceback" not in error
    # Repeated signals to every process leave a checkpoint, too.
    process = _start(run_python, prepared, tmp_path, nproc_per_node=2)
    children = _children(process)
    assert len(children) == 3, "torchrun and two training processes"
    process.send_signal(signal.SIGTERM)
    for _ in range(3):
        for child in children:
            if child.is_running():
                child.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == EXIT_TRY_AGAIN, error
    _finish(prepared, tmp_path, undisturbed, ALONE)


def test_a_killed_process_ends_the_others_and_is_named(
    prepared: Prepared, tmp_path: Path, undisturbed: Path, run_python: Start
) -> None:
    for rank in (0, 1):
        process = _start(run_python, prepared, tmp_path, nproc_per_node=2)
        children = _children(process)
        (victim,) = (worker for worker in _workers(process) if worker.environ()["RANK"] == str(rank))
        victim.kill()
        _, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == EXIT_USER_ERROR, error
        last = error.splitlines()[-1]
        assert last.startswith(f"process {rank} of 2 (on ")
        assert "was ended by SIGKILL, perhaps for lack of memory (exit code -9)" in last
        assert not psutil.wait_procs(children, timeout=30)[1]
    process = _start(run_python, prepared, tmp_path, nproc_per_node=2)
    children = _children(process)
    assert len(children) == 3
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert not psutil.wait_procs(children, timeout=30)[1], "no process outlives the program"
    _finish(prepared, tmp_path, undisturbed, TWO)


def _sharded(prepared: Prepared, out: Path, stop_after: int | None = None, **task: Any) -> None:
    """Train with two processes that share one model; see `SHARDED`."""
    out.mkdir(exist_ok=True)
    (out / "step_main.py").write_text(SHARDED)
    arguments = _arguments(prepared, out, "full", gradient_checkpointing=task.pop("gradient_checkpointing", False))
    arguments["recipe"]["training"] |= task.pop("training", {})
    task = {
        "recipe": arguments["recipe"],
        "execution": arguments["execution"],
        "train": arguments["train_manifests"],
        "validation": arguments["validation_manifests"],
        "base": BASE,
        "root": prepared.root,
        "out": out,
        "stop_after": stop_after,
        "dtype": "float32",
        **task,
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"]
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", str(out / "step_main.py"), json.dumps(task, default=str)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def unsharded(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of the training that others share."""
    out = tmp_path_factory.mktemp("unsharded")
    train(**_arguments(prepared, out, "full"))
    return out


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_sharded_processes_train_what_one_trains(
    prepared: Prepared, tmp_path: Path, unsharded: Path, gradient_checkpointing: bool
) -> None:
    # The validation loss falls to the end, so that the best weights are the last.
    training = {"keep": "best"} if gradient_checkpointing else {}
    _sharded(prepared, tmp_path, gradient_checkpointing=gradient_checkpointing, training=training)
    assert bool(training) == any(tmp_path.glob("work/best-*"))
    _assert_same_losses(tmp_path / "log.csv", unsharded / "log.csv")
    _assert_same_weights(tmp_path / "weights", _weights(unsharded))
    assert (tmp_path / "weights/config.json").read_bytes() == (_weights(unsharded) / "config.json").read_bytes()
    measured, alone = json.loads((tmp_path / "measured.json").read_text()), read_result(unsharded / "manifest.json")
    assert (measured["processes"], measured["parallel"]) == (2, "fsdp")
    assert measured["trainable_parameters"] == alone["trainable_parameters"]
    units, _, kinds = json.loads((tmp_path / "units.json").read_text())
    units = [unit.removesuffix("._checkpoint_wrapped_module") for unit in units]
    config = json.loads((BASE / "config.json").read_text())
    for kind, blocks, count in (
        ("language_model.layers", "model.language_model.layers", config["text_config"]["num_hidden_layers"]),
        ("visual.blocks", "model.visual.blocks", config["vision_config"]["depth"]),
    ):
        assert {unit for unit in units if kind in unit} == {f"{blocks}.{number}" for number in range(count)}
    assert kinds == ["torch.float32"]


def test_sharded_processes_compute_in_bfloat16_and_keep_and_add_up_in_float32(
    prepared: Prepared, tmp_path: Path
) -> None:
    _sharded(prepared, tmp_path, dtype="bfloat16", training={"epochs": 1})
    _, policies, kinds = json.loads((tmp_path / "units.json").read_text())
    (policy,) = policies
    assert "param_dtype=torch.bfloat16, reduce_dtype=torch.float32" in policy
    assert kinds == ["torch.float32"]
    base, weights = load_file(BASE / "model.safetensors"), load_file(tmp_path / "weights/model.safetensors")
    assert weights.keys() == base.keys()
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}


def test_a_sharded_run_resumes_unsharded(prepared: Prepared, tmp_path: Path, unsharded: Path) -> None:
    out = tmp_path / "run"
    _sharded(prepared, out, stop_after=3)
    assert newest_checkpoint(out / "work") == out / "work/checkpoint-3"
    _sharded(prepared, out, stop_after=5)
    other = tmp_path / "other"
    arguments = _arguments(prepared, other, "full")
    work = other / _work(unsharded).name
    work.parent.mkdir()
    (out / "work").rename(work)
    manifest = train(**arguments)
    assert manifest["resumed_from_step"] == 5
    _assert_same_losses(other / "log.csv", unsharded / "log.csv")
    _assert_same_weights(_weights(other), _weights(unsharded))


def test_an_unsharded_run_resumes_sharded(
    prepared: Prepared, tmp_path: Path, unsharded: Path, run_python: Start
) -> None:
    other = tmp_path / "other"
    process = _start(run_python, prepared, other, nproc_per_node=1, mode="full", epochs=2)
    _request_stop(process)
    out = tmp_path / "run"
    out.mkdir()
    _work(other).rename(out / "work")
    checkpoint = newest_checkpoint(out / "work")
    assert checkpoint is not None
    _sharded(prepared, out, gradient_checkpointing=True)
    assert json.loads((out / "measured.json").read_text())["resumed_from_step"] > 0
    _assert_same_losses(out / "log.csv", unsharded / "log.csv")
    _assert_same_weights(out / "weights", _weights(unsharded))


def test_weights_of_two_processes_are_complete_when_they_are_there(prepared: Prepared, tmp_path: Path) -> None:
    train(**_arguments(prepared, tmp_path, "full", epochs=1), processes=TWO)
    assert sorted(path.name for path in _work(tmp_path).iterdir() if path.is_dir()) == [WEIGHTS]
