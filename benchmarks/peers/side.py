"""What the two sides of a comparison have in common: they read a job, time a training, and write what they measured.

Runs in the peers' environments too, so it needs only torch and transformers.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

# Labels of tokens that are not trained on.
IGNORED = -100


class Timed(TrainerCallback):
    """Times all optimizer steps with the loading of their data; saving afterwards does not count.

    Attributes:
        started: when it started, in seconds: at the call that trains, or earlier where a side then prepares samples.
        before: the process's memory then, in bytes.
    """

    def __init__(self) -> None:
        self.started: float | None = None
        self.before = 0
        self.began = self.ended = 0.0
        self.processor = self.until = 0.0

    def start(self) -> None:
        """Start the clock, unless it runs."""
        if self.started is None:
            self.before = torch.cuda.memory_allocated() if torch.cuda.is_available() else memory("VmRSS")
            self.processor = time.process_time()
            self.started = time.perf_counter()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.start()
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note when the last step ended."""
        self.ended = time.perf_counter()
        self.until = time.process_time()

    def measured(self, history: Iterable[dict[str, Any]], samples: int) -> dict[str, Any]:
        """Return seconds, memory and the loss of each step.

        Args:
            history: the log of the Trainer.
            samples: samples trained on, each time counted.
        """
        assert self.started is not None
        seconds = self.ended - self.started
        return {
            "seconds": seconds,
            "samples_per_second": samples / seconds,
            # The part of the seconds before the first step.
            "preparation_seconds": self.began - self.started,
            # Of this process; on a busy machine, they say more than seconds. Workers' are not counted.
            "processor_seconds_per_sample": (self.until - self.processor) / samples,
            "before_bytes": self.before,
            # On a GPU, its memory counts.
            "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else memory("VmHWM"),
            "losses": [entry["loss"] for entry in history if "loss" in entry],
        }


def memory(name: str) -> int:
    """Return a size of this process in bytes: ``VmRSS`` now, ``VmHWM`` at its peak.

    The peak that ``getrusage`` reports is, after a fork, that of the parent.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def run_job(measure: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]], packages: Iterable[str]) -> None:
    """Read a job, measure each of its settings, and write the results, or that memory did not suffice.

    Args:
        measure: takes the job and settings, and returns what it measured.
        packages: whose versions are written too.
    """
    job_file, out = map(Path, sys.argv[1:])
    job = json.loads(job_file.read_text())
    results = [measured_or_failed(measure, job, settings) for settings in job["settings"]]
    versions = {name: importlib.metadata.version(name) for name in packages}
    out.write_text(json.dumps({"results": results, "versions": versions}))


def measured_or_failed(
    measure: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]], job: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Return what was measured, or ``failed`` if memory did not suffice."""
    failed = ""
    try:
        return measure(job, settings)
    except Exception as problem:
        failed = str(problem)
        if "out of memory" not in failed.lower() and "memory ran out" not in failed.lower():
            raise
    # Outside the except block, since the error keeps the tensors alive.
    gc.collect()
    torch.cuda.empty_cache()
    return {"failed": failed.splitlines()[0]}


def accepted(kind: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that a dataclass of this release has."""
    known = getattr(kind, "__dataclass_fields__")  # noqa: B009
    return {name: value for name, value in arguments.items() if name in known}


def in_order(trainer: type) -> type:
    """Return a Trainer that takes the samples in their order, also of releases without a setting for that."""
    return type(trainer.__name__, (trainer,), {"_get_train_sampler": _sampler})


def _sampler(trainer: Any, *_: Any) -> SequentialSampler:
    return SequentialSampler(trainer.train_dataset)


def trainer_arguments(job: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of transformers' Trainer that make it train as the job says."""
    return {
        "output_dir": job["work"],
        "num_train_epochs": 1,
        "per_device_train_batch_size": settings["micro_batch_size"],
        "gradient_accumulation_steps": job["batch_size"] // settings["micro_batch_size"],
        "gradient_checkpointing": settings["gradient_checkpointing"],
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "dataloader_num_workers": settings["dataloader_num_workers"],
        "dataloader_pin_memory": job["device"] != "cpu",
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        # Some trainers have other defaults.
        "adam_beta2": 0.999,
        "bf16": job["dtype"] == "bfloat16",
        "use_cpu": job["device"] == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "seed": 0,
    }


def model_to_train(job: dict[str, Any]) -> Any:
    """Return the base model with the job's adapter, or with its language model trained, in float32 if so."""
    from transformers import AutoModelForImageTextToText

    dtype = getattr(torch, job["dtype"]) if job["adapter"] else torch.float32
    model = AutoModelForImageTextToText.from_pretrained(job["base"], dtype=dtype, local_files_only=True)
    if job["adapter"]:
        from peft import PeftModel

        return PeftModel.from_pretrained(model, job["adapter"], is_trainable=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".visual." not in name)
    return model
