"""Job records: a small JSON file next to the log of a running job, read by `usertune.monitoring.jobs`.

No result depends on it. If the record cannot be written, the error is ignored and the job continues.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.files import replacement
from usertune.runtime.launchers import launched_rank

SUFFIX = ".progress.json"
# Path of the record of the parent process; a training process writes its progress there.
FILE_VARIABLE = "USERTUNE_PROGRESS_FILE"
# If a record is older than a few of these, its process is gone.
SIGN_OF_LIFE_SECONDS = 30.0
EARLIER_ATTEMPTS_KEPT = 20
# Keys kept from an earlier attempt.
OUTCOME = ("attempt", "state", "error", "process", "host", "slurm_job", "started", "updated", "ended", "model_loads")
LONGEST_ERROR = 500


def record_file(log: Path) -> Path | None:
    """Return the path of the record next to a log; None if the log does not end with ``.log``."""
    return log.with_suffix(SUFFIX) if log.suffix == ".log" else None


@contextmanager
def kept(log: Path | None) -> Iterator[None]:
    """Keep the record of this process up to date while the block runs, and write its outcome at the end.

    Args:
        log: log of the program; the record is next to it. None: no record.
    """
    global _current
    path = record_file(log) if log else None
    if path is None:
        yield
        return
    _current = record = _Record(path, _beginning(path))
    os.environ[FILE_VARIABLE] = str(path.absolute())
    over = threading.Event()
    signs = threading.Thread(target=_give_signs_of_life, args=(record, over), daemon=True)
    # Only the main thread handles signals; a new thread inherits the mask of the thread that starts it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    # If no thread can be started, the job still runs.
    with suppress(RuntimeError):
        signs.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    state, error = "ended", None
    try:
        record.write()
        yield
    except KeyboardInterrupt:
        state = "stopped"
        raise
    except BaseException as problem:
        if not isinstance(problem, SystemExit) or problem.code:
            state, error = "failed", _first_line(problem)
        raise
    finally:
        over.set()
        if signs.ident is not None:
            signs.join(timeout=5)
        record.write(state=state, error=error, ended=_now())
        del os.environ[FILE_VARIABLE]
        _current = None


def failed_since(records: Iterable[Path], since: float) -> bool:
    """Whether a program failed and none was stopped by a person.

    Args:
        records: records of the programs, see `record_file`.
        since: seconds since the epoch; older records are ignored.
    """
    states = set()
    for path in records:
        with suppress(OSError):
            if path.stat().st_mtime >= since:
                states.add(_read(path).get("state"))
    return "failed" in states and "stopped" not in states


def note_progress(unit: str, done: int, total: int, rate: float | None) -> None:
    """Write progress to the record, if there is one.

    Args:
        unit: what is counted, in the plural.
        done: number of finished units, including earlier attempts.
        total: number of all units.
        rate: units per second; None if not yet known.
    """
    if record := _record():
        left = (total - done) / rate if rate else None
        progress = {"unit": unit, "done": done, "total": total, "rate": rate, "seconds_left": left, "at": _now()}
        record.write(progress=progress, gpus=_gpus())


def count_model_load() -> None:
    """Count a load of the base model in the record, if there is one."""
    if record := _record():
        record.write(model_loads=record.known.get("model_loads", 0) + 1, gpus=_gpus())


class _Record:
    """A record and the keys that this process sets.

    Args:
        path: path of the record.
        known: keys that this process sets; other keys in the file are kept.
    """

    def __init__(self, path: Path, known: dict[str, Any]) -> None:
        self.path = path
        self.known = known
        self.process = os.getpid()
        self._new = "state" in known
        self._lock = threading.Lock()

    def write(self, **news: Any) -> None:
        """Update the file atomically with ``news``; errors are ignored."""
        with self._lock, suppress(OSError, ValueError):
            self.known |= news
            others = {} if self._new else _read(self.path)
            value = {**others, **self.known, "updated": _now()}
            # Not flushed to disk, which would be slow at every step.
            with replacement(self.path) as temporary:
                temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
            # From now on, keep what child processes write.
            self._new = False


_current: _Record | None = None


def _record() -> _Record | None:
    """Return the record that this process may write to."""
    global _current
    if _current is None and os.environ.get(FILE_VARIABLE) and launched_rank() == 0:
        _current = _Record(Path(os.environ[FILE_VARIABLE]), {})
    # A forked process inherits the memory, but must not write the record.
    return _current if _current and _current.process == os.getpid() else None


def _beginning(path: Path) -> dict[str, Any]:
    previous = _read(path)
    earlier: list[Any] = []
    attempt = 1
    if isinstance(previous.get("earlier"), list) and isinstance(previous.get("attempt"), int):
        outcome = {key: previous[key] for key in OUTCOME if key in previous}
        earlier = [*previous["earlier"], outcome][-EARLIER_ATTEMPTS_KEPT:]
        attempt = 1 if previous.get("state") == "ended" else previous["attempt"] + 1
    return {
        "state": "running",
        "error": None,
        "attempt": attempt,
        "process": os.getpid(),
        "host": socket.gethostname(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "node": os.environ.get("SLURMD_NODENAME"),
        "started": _now(),
        "ended": None,
        "earlier": earlier,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _give_signs_of_life(record: _Record, over: threading.Event) -> None:
    while not over.wait(SIGN_OF_LIFE_SECONDS):
        record.write()


def _gpus() -> list[str]:
    return [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]


def _first_line(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines() or [""]
    known = isinstance(problem, UserError | OSError)
    return (lines[0] if known and lines[0] else f"{type(problem).__name__}: {lines[0]}")[:LONGEST_ERROR]


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
