"""Set-up of the processes that load batches. Does not import torch.

A worker sends tensors through a Unix socket in the folder for temporary files. By default it drops a batch that it
cannot send, and training waits for this batch forever. So sockets get short paths, and errors reach the training.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from usertune.core.errors import FinalError

# From unix(7): 108 bytes, one of them for the terminating zero.
MAX_SOCKET_PATH_BYTES = 107
# As multiprocessing names it, below the folder for temporary files.
SOCKET = "pymp-12345678/listener-12345678"
SHORT_FOLDERS = tuple(map(Path, ("/tmp", "/var/tmp", "/dev/shm")))  # noqa: S108 - multiprocessing makes private ones


def socket_folder() -> Path:
    """Return the folder for the workers' sockets: that for temporary files (TMPDIR), or a shorter one.

    Raises:
        FinalError: TMPDIR is too long, and no shorter folder can be written.
    """
    usual = Path(tempfile.gettempdir())
    if _is_short(usual):
        return usual
    for folder in SHORT_FOLDERS:
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return folder
    longest = MAX_SOCKET_PATH_BYTES - len(f"/{SOCKET}")
    others = ", ".join(map(str, SHORT_FOLDERS))
    raise FinalError(
        f"TMPDIR is {usual}, too long for the sockets of training.dataloader_num_workers, and none of {others} can be "
        f"written; set TMPDIR to a folder with a path of at most {longest} bytes, or dataloader_num_workers to 0"
    )


def worker_setup() -> Callable[[int], None]:
    """Return the ``worker_init_fn`` of a DataLoader.

    A worker's sockets are in `socket_folder`; the worker removes them when it ends, also if its parent is killed. If it
    cannot send a batch, it sends the error, which the DataLoader raises.

    Raises:
        FinalError: see `socket_folder`.
    """
    return partial(_set_up, socket_folder())


def _is_short(folder: Path) -> bool:
    return len(os.fsencode(folder / SOCKET)) <= MAX_SOCKET_PATH_BYTES


def _set_up(folder: Path, _worker: int) -> None:
    tempfile.tempdir = str(folder)
    # The only way to learn of such an error; concurrent.futures does the same in a subclass.
    Queue._on_queue_feeder_error = _send_error  # type: ignore[attr-defined]


def _send_error(queue: Queue[Any], _error: Exception, unsent: tuple[int, Any]) -> None:
    """Send the error that is being handled instead of a batch, in the form of torch's own workers."""
    from torch._utils import ExceptionWrapper

    number, _batch = unsent
    queue.put((number, ExceptionWrapper(where="in a DataLoader worker process that could not send a batch")))
