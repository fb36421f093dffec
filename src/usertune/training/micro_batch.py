"""The micro-batch size of an attempt, which is reduced after an out-of-memory attempt."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from usertune.core.errors import LackOfMemoryError, UserError
from usertune.core.files import read_json, write_json

logger = logging.getLogger(__name__)

NOTE = "attempt.json"
Size = Literal["auto"] | int


@contextmanager
def micro_batch_of_attempt(work: Path, attempt: int, asked: Size, share: int) -> Iterator[Size]:
    """Choose the micro-batch size of an attempt, and note for the next one whether memory ran out.

    The first attempt uses the study's size. A later one uses a smaller size if memory ran out in the previous one, or
    may have: the kernel silently kills processes that use too much memory. After another error or a stop signal (such
    as a time limit), the size stays the same. After "auto", the smaller size is 1.

    Args:
        work: working folder of the training, for the note.
        attempt: 1, 2, ... in one run of the workflow.
        asked: ``training.micro_batch_size`` of the study: "auto", or a number that divides ``share``.
        share: samples per optimizer step and process; every size divides it, so that results stay the same.

    Yields:
        Samples in memory at once, in each process, or "auto".
    """
    note = work / NOTE
    size = asked if attempt == 1 else _next_size(note, asked, share)
    if size != asked:
        logger.info(
            "memory ran out in an earlier attempt, or may have: micro_batch_size is %s instead of %s", size, asked
        )
    # Remains if the process is killed.
    write_json(note, {"micro_batch_size": size, "memory_may_have_run_out": True})
    try:
        yield size
    except LackOfMemoryError:
        raise
    except BaseException:
        with suppress(OSError):
            write_json(note, {"micro_batch_size": size, "memory_may_have_run_out": False})
        raise
    note.unlink(missing_ok=True)


def smaller(size: int, share: int) -> int:
    """Return the largest divisor of ``share`` that is at most half of ``size``; 1 for 1."""
    return next(half for half in range(max(1, size // 2), 0, -1) if share % half == 0)


def _next_size(note: Path, asked: Size, share: int) -> Size:
    """Return the micro-batch size of the attempt after the one that wrote the note."""
    try:
        before = read_json(note) if note.exists() else {}
    except UserError as problem:
        logger.warning("%s", problem)
        before = {}
    size = before.get("micro_batch_size")
    if asked == "auto":
        return 1 if size == 1 or before.get("memory_may_have_run_out") else asked
    if not isinstance(size, int) or not 0 < size <= asked or share % size:
        return asked
    return smaller(size, share) if before.get("memory_may_have_run_out") else size
