"""Work that must not be done twice at once, by kernel locks that die with their holder."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from usertune.core.errors import UserError
from usertune.core.files import write_text

logger = logging.getLogger(__name__)

SAY_EVERY_SECONDS = 60.0
RESULTS_LOCK, RESULTS_HOLDER = ".lock", ".lock-holder"
# A lock is released when its object is collected.
_held: list[FileLock] = []


def hold_results(folder: Path) -> None:
    """Keep the folder of results for this process until it ends, however it ends.

    Raises:
        UserError: another process has it, or it cannot be written.
    """
    lock = FileLock(folder / RESULTS_LOCK)
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        write_text(folder / RESULTS_HOLDER, f"process {os.getpid()} on {socket.gethostname()}, since {since}\n")
    except Timeout:
        holder = _read_holder(folder / RESULTS_HOLDER)
        raise UserError(
            f"{folder}: another snakemake is working on these results ({holder}); wait until it ends, or stop it, or "
            "give this study a folder of its own (key: results)"
        ) from None
    except (OSError, NotImplementedError) as error:
        # Older releases of filelock raise NotImplementedError where the file system has no locks.
        raise UserError(
            f"{folder}: results cannot be written here: {error}; mend this, or choose another folder (key: results)"
        ) from None
    _held.append(lock)


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown process"


@contextmanager
def one_at_a_time(lock_file: Path, work: str) -> Iterator[None]:
    """Hold a lock while the block runs, waiting as long as another process has it.

    The other process may be an attempt that a scheduler believes dead, or one whose Snakemake was killed: what it
    finishes need not be done again. The lock (flock) is gone with its holder, so nobody waits for the dead.

    Args:
        lock_file: file to lock; made if need be, and left.
        work: what is done, for the message.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    wait = 0.0
    while not lock.is_locked:
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            logger.info("another process is %s already; waiting for it (%s)", work, lock_file)
            wait = SAY_EVERY_SECONDS
    try:
        yield
    finally:
        lock.release()
