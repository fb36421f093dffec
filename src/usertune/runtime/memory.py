"""What the allocator keeps, and out-of-memory errors of various libraries. Does not import torch."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from usertune.core.errors import LackOfMemoryError, UserError

# Messages of torch (allocators, cuBLAS, cuDNN, cuSOLVER, cuSPARSE, NCCL, loader workers), numpy and the C++ library.
_TEXTS = re.compile(
    r"""
    out\ of\ memory                           # CUDA, HIP, the driver; also NCCL: Cuda failure 2 'out of memory'
    | (can't|cannot|unable\ to)\ allocate     # DefaultCPUAllocator, "Cannot allocate memory", numpy
    | not\ enough\ memory                     # DefaultCPUAllocator on some systems
    | \bCU[A-Z]+_\w*ALLOC\w*FAILED            # CUBLAS_STATUS_ALLOC_FAILED and similar
    | failed\ to\ cuda\ (m|c)alloc            # NCCL's buffers
    | out\ of\ shared\ memory                 # bus error in a loader worker
    | dataloader\ worker\ .*killed\ by\ signal:\ killed   # by the kernel's OOM killer
    | bad_alloc | bad\ allocation
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)

# Where the kernel shows control groups, and the files of a group: its limit and its use, in versions 2 and 1.
GROUPS = Path("/sys/fs/cgroup")
GROUP_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))

# Parameters of mallopt (glibc, malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
SIZE_VARIABLE = "MALLOC_MMAP_THRESHOLD_"
# Blocks of this size have their own mapping. Smaller ones, all that a small model computes, are quicker in the heap.
MAPPED_FROM = 4 << 20
# Free memory that may stay at the end of the heap; the default of 128 KiB, fixed, would return and fetch it constantly.
KEPT = 64 << 20


def ran_out(error: BaseException) -> bool:
    """Whether an error means out of memory, on a GPU or the machine, in this process or a loader worker."""
    if isinstance(error, UserError):
        return isinstance(error, LackOfMemoryError)
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, Exception) and bool(_TEXTS.search(str(error)))


@contextmanager
def lack_named(what: str, advice: str) -> Iterator[None]:
    """Turn an out-of-memory error of the block into a `LackOfMemoryError`.

    Args:
        what: what failed, as in "out of memory with training.micro_batch_size 8".
        advice: what to do about it.

    Raises:
        LackOfMemoryError: instead of the error, with its first line.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not ran_out(error):
            raise
        raise LackOfMemoryError(f"{what} ({_first_line(error)}); {advice}") from None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    # A loader worker sends its full traceback; the last line is the error.
    line = lines[-1] if lines and lines[0].startswith("Caught ") else next(iter(lines), "")
    named = next((found for found in lines if _TEXTS.search(found)), line)
    return named or type(error).__name__


def return_freed_memory(environment: Mapping[str, str] = os.environ) -> None:
    """Make glibc return freed tensors to the system; without effect with other C libraries and other allocators.

    glibc moves the size from which a block has its own mapping up to 32 MiB, as blocks are freed (mallopt(3)). The
    tensors of a large model then lie in one heap, which cannot shrink below its last block, and the holes between them
    add up (measured in docs/decisions.md, 2026-11-29). A size in the environment is left as it is.
    """
    if SIZE_VARIABLE in environment or "mmap_threshold" in environment.get("GLIBC_TUNABLES", ""):
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def free_memory(groups: Path = GROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Return how many bytes this process can still use: of the machine's, and of each control group that it is in.

    Schedulers and containers limit jobs by control groups; the machine's free memory does not show it.
    """
    free = int(psutil.virtual_memory().available)
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root = groups / "memory" if controllers else groups
            folder = root / path.lstrip("/")
            for group in (folder, *folder.parents):
                free = int(min(free, _free_in(group)))
                if group == root:
                    break
    return max(0, free)


def _free_in(group: Path) -> float:
    for limit, use in GROUP_FILES:
        # Without a limit, the file says "max".
        with suppress(OSError, ValueError):
            return int((group / limit).read_text()) - int((group / use).read_text())
    return float("inf")
