"""Shares the GPUs of one machine among concurrent jobs, with locks that end with their process."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from usertune.core.errors import UserError

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 10.0


def visible_gpus() -> list[str]:
    """Return the ids of the GPUs that this process may use.

    If CUDA_VISIBLE_DEVICES is set, it decides (empty or -1: none). Otherwise these are the UUIDs of all GPUs that
    ``nvidia-smi`` lists; none without a driver.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        ids = [part.strip() for part in chosen.split(",") if part.strip()]
        # As in CUDA: only ids before the first invalid one count.
        return ids[: ids.index("-1")] if "-1" in ids else ids
    return [line for (line,) in _asked("uuid")]


def gpu_memory_bytes() -> list[int]:
    """Return the memory in bytes of the GPUs that this process may use, as far as ``nvidia-smi`` says it."""
    chosen = set(visible_gpus())
    sizes = []
    for *names, memory in _asked("uuid", "index", "memory.total"):
        mebibytes = memory.removesuffix(" MiB")
        if chosen & set(names) and mebibytes.isdigit():
            sizes.append(int(mebibytes) * 2**20)
    return sizes


def _asked(*fields: str) -> list[list[str]]:
    """Return these fields of each GPU, as ``nvidia-smi`` lists them; [] without a driver."""
    try:
        listing = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [[field.strip() for field in line.split(",")] for line in listing.stdout.splitlines() if line.strip()]


def given_by_slurm() -> list[str]:
    """Return the GPUs that SLURM gave this job step on this node, as ``node:index``.

    SLURM's own indices differ between the jobs of a node. CUDA_VISIBLE_DEVICES starts at 0 in every job if SLURM
    confines jobs to their devices.
    """
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    variables = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES")
    listed = next((os.environ[name] for name in variables if os.environ.get(name)), "")
    return [f"{node}:{index}" for index in listed.split(",") if index]


@contextmanager
def lease(count: int, folder: Path | None = None) -> Iterator[list[str]]:
    """Lock ``count`` GPUs of this machine, all at once, until the block ends.

    Waits while other jobs hold them. Sets CUDA_VISIBLE_DEVICES inside the block, so enter it before torch is imported.
    The locks are kernel file locks (flock), which are released however the process ends. Nothing is locked with
    ``count`` 0, or under SLURM, which assigns GPUs to each job (`given_by_slurm`).

    Args:
        count: number of GPUs; 0 hides all GPUs, so the work runs on the CPU.
        folder: folder of the locks; all jobs of the machine must use the same one.

    Yields:
        The GPU ids.

    Raises:
        UserError: ``count`` is larger than the number of visible GPUs.
    """
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if "SLURM_JOB_ID" in os.environ:
        given = given_by_slurm()
        logger.info("SLURM job %s, GPU %s", os.environ["SLURM_JOB_ID"], ", ".join(given) or "none")
        yield given
        return
    with ExitStack() as held:
        gpus = _acquire(count, folder or _lock_folder(), held) if count else []
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        try:
            yield gpus
        finally:
            if before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def _acquire(count: int, folder: Path, held: ExitStack) -> list[str]:
    gpus = visible_gpus()
    if count > len(gpus):
        raise UserError(f"{count} GPUs are needed, but this machine offers {len(gpus)}; lower the job's gpu resource")
    folder.mkdir(parents=True, exist_ok=True)
    wait = FIRST_WAIT_SECONDS
    while True:
        taken = _try_acquire(gpus, count, folder, held)
        if taken:
            logger.info("using GPU %s", ", ".join(taken))
            return taken
        if wait == FIRST_WAIT_SECONDS:
            logger.info("waiting for %d of %d GPUs to become free", count, len(gpus))
        # Two jobs that need several GPUs must not release and retry in lockstep.
        time.sleep(wait * (0.5 + os.getpid() % 100 / 100))
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def _try_acquire(gpus: Sequence[str], count: int, folder: Path, held: ExitStack) -> list[str]:
    taken: list[str] = []
    with ExitStack() as attempt:
        for gpu in gpus:
            lock = FileLock(folder / f"{gpu}.lock", mode=0o666)
            try:
                attempt.enter_context(lock.acquire(timeout=0))
            except Timeout:
                continue
            taken.append(gpu)
            if len(taken) == count:
                held.push(attempt.pop_all().__exit__)
                return taken
    return []


def _lock_folder() -> Path:
    # Jobs with another TMPDIR use the same GPUs, so the folder does not depend on it where there is a choice.
    common = Path("/tmp")  # noqa: S108 - the folder has the user's number, and locks hold nothing
    usable = common.is_dir() and os.access(common, os.W_OK | os.X_OK)
    return (common if usable else Path(tempfile.gettempdir())) / f"usertune-gpus-{os.getuid()}"
