"""Out-of-memory errors of every kind are recognised, and no other errors."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from usertune.core.errors import LackOfMemoryError, UserError
from usertune.runtime.memory import free_memory, lack_named, ran_out

ASYNCHRONOUS = "\nCUDA kernel errors might be asynchronously reported at some other API call."
NCCL = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.hpp:268, unhandled cuda error (run with "
    "NCCL_DEBUG=INFO for details), NCCL version 2.21.5\nncclUnhandledCudaError: Call to CUDA function failed.\n"
    "Last error:\n"
)
LACKS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.19 GiB"),
    torch.AcceleratorError("CUDA error: out of memory" + ASYNCHRONOUS, 2),
    RuntimeError("CUDA error: out of memory" + ASYNCHRONOUS),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("HIP out of memory. Tried to allocate 512.00 MiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to 1 B"),
    RuntimeError("unable to mmap 4967215360 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
    torch.distributed.DistBackendError(NCCL + "Failed to CUDA calloc async 608 bytes"),
    torch.distributed.DistBackendError(NCCL + "Cuda failure 2 'out of memory'"),
    RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. "),
    RuntimeError(
        "DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that dataloader's workers are "
        "out of shared memory. Please try to raise your shared memory limit."
    ),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
OTHERS = [
    RuntimeError("shapes do not match"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`"),
    RuntimeError("DataLoader worker (pid 4711) is killed by signal: Terminated. "),
    torch.distributed.DistBackendError("NCCL error: remote process exited or there was a network error"),
    OSError(errno.ENOSPC, "No space left on device"),
    UserError("sample 7-1: the text is 'out of memory'"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", LACKS, ids=lambda error: str(error)[:50])
def test_what_is_a_lack_of_memory(error: Exception) -> None:
    assert ran_out(error)
    with pytest.raises(LackOfMemoryError) as named, lack_named("out of memory with micro_batch_size 8", "take less"):
        raise error
    assert re.fullmatch(r"out of memory with micro_batch_size 8 \(.+\); take less", str(named.value))


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: str(error)[:50])
def test_what_is_none(error: BaseException) -> None:
    assert not ran_out(error)
    with pytest.raises(type(error)) as raised, lack_named("out of memory", "take less"):
        raise error
    assert raised.value is error


class _Hungry(Dataset[Any]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> Any:
        return np.zeros(10**15)


@pytest.mark.parametrize("workers", [0, 1])
def test_real_errors_of_numpy_torch_and_a_loaders_worker(workers: int) -> None:
    with pytest.raises(LackOfMemoryError, match="Unable to allocate 7"), lack_named("memory", "take less"):
        next(iter(DataLoader(_Hungry(), num_workers=workers)))
    with pytest.raises(LackOfMemoryError, match="can't allocate memory"), lack_named("memory", "take less"):
        torch.empty(10**15)


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/job_7/step_0", "job_7", ("memory.max", "memory.current")),
        ("4:cpu,memory:/job_7/step_0", "memory/job_7", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ],
)
def test_free_memory_is_that_of_the_narrowest_control_group(
    tmp_path: Path, line: str, folder: str, names: tuple[str, str]
) -> None:
    own = tmp_path / "cgroup"
    own.write_text(f"9:devices:/elsewhere\n{line}\n")
    available = psutil.virtual_memory().available
    assert free_memory(tmp_path, own) == pytest.approx(available, rel=0.2)
    limited, step = tmp_path / folder, tmp_path / folder / "step_0"
    step.mkdir(parents=True)
    for group, texts in ((step, ("max\n", "5\n")), (limited, ("3000\n", "1000\n"))):
        for name, text in zip(names, texts, strict=True):
            (group / name).write_text(text)
    assert free_memory(tmp_path, own) == 2000
    (limited / names[1]).write_text("4000\n")
    assert free_memory(tmp_path, own) == 0
    assert free_memory(tmp_path, tmp_path / "no such file") == pytest.approx(available, rel=0.2)
