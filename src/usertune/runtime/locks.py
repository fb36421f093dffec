"""Prevents concurrent duplicate work, with kernel locks that end with their process."""

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
# Keeps references: a lock is released when its object is garbage-collected.
_held: list[FileLock] = []


def hold_results(folder: Path) -> None:
    """Lock the results folder for this process until it ends.

    Raises:
        UserError: another process holds the lock, or the folder cannot be written.
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
            f"{folder}: another snakemake is working on these results ({holder}); wait until it ends, stop it, or "
            "give this study another folder (key: results)"
        ) from None
    except (OSError, NotImplementedError) as error:
        # Older releases of filelock raise NotImplementedError if the file system has no locks.
        raise UserError(
            f"{folder}: results cannot be written here: {error}; fix this, or choose another folder (key: results)"
        ) from None
    _held.append(lock)


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown process"


@contextmanager
def one_at_a_time(lock_file: Path, work: str) -> Iterator[None]:
    """Hold a lock while the block runs; wait while another process holds it.

    The other process may be an attempt that a scheduler considers dead, or a job of a killed Snakemake. A later attempt
    waits and reuses its result. The lock (flock) ends with its process, so nobody waits for a dead one.

    Args:
        lock_file: file to lock; created if missing, and not removed.
        work: description of the work, for the message.
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


@contextmanager
def if_free(lock_file: Path) -> Iterator[bool]:
    """Hold the same lock as `one_at_a_time` while the block runs, if no other process holds it now; do not wait.

    Args:
        lock_file: file to lock; created if missing, and not removed.

    Yields:
        Whether the lock is held.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
