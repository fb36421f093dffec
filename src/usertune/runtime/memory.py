"""Recognizes out-of-memory errors of various libraries. Does not import torch."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

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
