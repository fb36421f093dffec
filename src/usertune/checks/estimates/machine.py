"""The memory that a training can use: that of a GPU, or, on the CPU, of the machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from usertune.runtime.gpus import gpu_memory_bytes, visible_gpus


@dataclass(frozen=True)
class Machine:
    """Where trainings run.

    Attributes:
        device: gpu or cpu.
        memory: bytes of each GPU, or of the machine; None if unknown.
        source: where the figure is from, in words.
        is_cluster: whether trainings may run at the same time, on other machines.
    """

    device: Literal["gpu", "cpu"]
    memory: int | None
    source: str
    is_cluster: bool = False


def machine_of(gpu_memory_gb: float | None, on_a_cluster: bool) -> Machine:
    """Return where the trainings of a study run.

    Args:
        gpu_memory_gb: the key of the study, in units of 2^30 bytes; None: what this machine has.
        on_a_cluster: whether jobs run on other machines, of which only that key says anything.
    """
    if gpu_memory_gb is not None:
        return Machine("gpu", round(gpu_memory_gb * 2**30), "gpu_memory_gb of the study", on_a_cluster)
    if on_a_cluster:
        return Machine("gpu", None, "unknown on a cluster; set gpu_memory_gb", on_a_cluster)
    if visible_gpus():
        memory = gpu_memory_bytes()
        return Machine("gpu", min(memory, default=None), "the smallest GPU of this machine")
    return Machine("cpu", psutil.virtual_memory().total, "this machine, which has no GPU")


def free_bytes(folder: Path) -> int:
    """Return the free space of the file system on which a folder is, or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free
