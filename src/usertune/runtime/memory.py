"""Recognising that memory ran out, by whatever name it is reported. Knows nothing of torch."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from usertune.core.errors import LackOfMemoryError, UserError

# Texts of torch (allocators, cuBLAS, cuDNN, cuSOLVER and cuSPARSE, NCCL, loader workers), numpy and the C++ library.
_TEXTS = re.compile(
    r"""
    out\ of\ memory                           # CUDA, HIP, the driver; also NCCL: Cuda failure 2 'out of memory'
    | (can't|cannot|unable\ to)\ allocate     # DefaultCPUAllocator, "Cannot allocate memory", numpy
    | not\ enough\ memory                     # DefaultCPUAllocator on some systems
    | \bCU[A-Z]+_\w*ALLOC\w*FAILED            # CUBLAS_STATUS_ALLOC_FAILED and those of the other libraries
    | failed\ to\ cuda\ (m|c)alloc            # NCCL's buffers
    | out\ of\ shared\ memory                 # a loader's worker that got a bus error
    | dataloader\ worker\ .*killed\ by\ signal:\ killed   # the kernel ends so whoever takes too much
    | bad_alloc | bad\ allocation
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


def ran_out(error: BaseException) -> bool:
    """Whether an error means that memory ran out, of a GPU or of the machine, in this process or a loader's worker."""
    if isinstance(error, UserError):
        return isinstance(error, LackOfMemoryError)
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, Exception) and bool(_TEXTS.search(str(error)))


@contextmanager
def lack_named(what: str, advice: str) -> Iterator[None]:
    """Let an error of the block that means a lack of memory be a `LackOfMemoryError`.

    Args:
        what: what was done, as in "out of memory with training.micro_batch_size 8".
        advice: what to do about it.

    Raises:
        LackOfMemoryError: in place of the error, of which it keeps the first line.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not ran_out(error):
            raise
        raise LackOfMemoryError(f"{what} ({_first_line(error)}); {advice}") from None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    # A loader's worker sends its whole traceback: the last line says what happened.
    line = lines[-1] if lines and lines[0].startswith("Caught ") else next(iter(lines), "")
    named = next((found for found in lines if _TEXTS.search(found)), line)
    return named or type(error).__name__
