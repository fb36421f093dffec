"""Two processes that share one model by FSDP: real ones, started by torchrun, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.calls import train
from tests.support.several_processes import (
    Start,
    assert_same_losses,
    assert_same_weights,
    request_stop,
    start_training,
    training_arguments,
    weights_of,
    work_of,
)
from tests.unit.conftest import BASE, Prepared
from usertune.core.manifest import read_result
from usertune.training.callbacks import newest_checkpoint

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
from usertune.training.inputs import FineTuning
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

original_load = finetune.load_start
def load(*arguments):
    (out / f"loaded_by_{os.environ['RANK']}").touch()
    return original_load(*arguments)
finetune.load_start = load

original_save = finetune.save_weights
def save(trainer, *rest):
    moved = original_save(trainer, *rest)
    # Sharded again: after a forward pass, the outermost unit stays whole, in the number format of computations.
    units = [name for name, module in trainer.model.named_modules() if isinstance(module, FSDPModule)]
    policies = {str(module._get_fsdp_state()._mp_policy) for module in trainer.model.modules()
                if isinstance(module, FSDPModule)}
    kinds = {str(weights.dtype) for weights in trainer.model.parameters()}
    if dist.get_rank() == 0:
        (out / "units.json").write_text(json.dumps([units, sorted(policies), sorted(kinds)]))
    return moved
finetune.save_weights = save

samples = [[sample for file in task[key] for sample in read_user(Path(file))[1]] for key in ("train", "validation")]
out = Path(task["out"])
run = FineTuning(
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


def _sharded(prepared: Prepared, out: Path, stop_after: int | None = None, **task: Any) -> None:
    """Train with two processes that share one model; see `SHARDED`."""
    out.mkdir(exist_ok=True)
    (out / "step_main.py").write_text(SHARDED)
    arguments = training_arguments(
        prepared, out, "full", gradient_checkpointing=task.pop("gradient_checkpointing", False)
    )
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
    train(**training_arguments(prepared, out, "full"))
    return out


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_sharded_processes_train_what_one_trains(
    prepared: Prepared, tmp_path: Path, unsharded: Path, gradient_checkpointing: bool
) -> None:
    # The validation loss falls to the end, so that the best weights are the last.
    training = {"keep": "best"} if gradient_checkpointing else {}
    _sharded(prepared, tmp_path, gradient_checkpointing=gradient_checkpointing, training=training)
    assert bool(training) == any(tmp_path.glob("work/best-*"))
    assert_same_losses(tmp_path / "log.csv", unsharded / "log.csv")
    assert_same_weights(tmp_path / "weights", weights_of(unsharded))
    assert (tmp_path / "weights/config.json").read_bytes() == (weights_of(unsharded) / "config.json").read_bytes()
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
    assert [path.name for path in tmp_path.glob("loaded_by_*")] == ["loaded_by_0"]


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
    arguments = training_arguments(prepared, other, "full")
    work = other / work_of(unsharded).name
    work.parent.mkdir()
    (out / "work").rename(work)
    manifest = train(**arguments)
    assert manifest["resumed_from_step"] == 5
    assert_same_losses(other / "log.csv", unsharded / "log.csv")
    assert_same_weights(weights_of(other), weights_of(unsharded))


def test_an_unsharded_run_resumes_sharded(
    prepared: Prepared, tmp_path: Path, unsharded: Path, run_python: Start
) -> None:
    other = tmp_path / "other"
    process = start_training(run_python, prepared, other, nproc_per_node=1, mode="full", epochs=2)
    request_stop(process)
    out = tmp_path / "run"
    out.mkdir()
    work_of(other).rename(out / "work")
    checkpoint = newest_checkpoint(out / "work")
    assert checkpoint is not None
    _sharded(prepared, out, gradient_checkpointing=True)
    assert json.loads((out / "measured.json").read_text())["resumed_from_step"] > 0
    assert_same_losses(out / "log.csv", unsharded / "log.csv")
    assert_same_weights(out / "weights", weights_of(unsharded))
