"""What a job tells of itself while it runs: a small JSON file beside its log, for `usertune.monitoring.jobs` to read.

No result is made from it, and a record that cannot be written is let be: the work is what counts.
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
# Names the record of the program that started this process, which may tell its progress there.
FILE_VARIABLE = "USERTUNE_PROGRESS_FILE"
# A record that is older than a few of these is that of a process which is gone.
SIGN_OF_LIFE_SECONDS = 30.0
EARLIER_ATTEMPTS_KEPT = 20
# What is kept of an earlier attempt.
OUTCOME = ("attempt", "state", "error", "process", "host", "slurm_job", "started", "updated", "ended", "model_loads")
LONGEST_ERROR = 500


def record_file(log: Path) -> Path | None:
    """Return where the record of a program with this log lies; None if the log is no ``.log`` file."""
    return log.with_suffix(SUFFIX) if log.suffix == ".log" else None


@contextmanager
def kept(log: Path | None) -> Iterator[None]:
    """Keep the record of this process while the block runs: how it is going, and in the end how it ended.

    Args:
        log: the program's log, beside which the record lies; None keeps no record.
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
    # Signals are the main thread's, which may wait for them; a thread begins with the mask of the one that starts it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    # A machine that has no threads left can still do the work.
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
    """Whether one of some programs failed, and none was stopped by a person.

    Args:
        records: their records, see `record_file`.
        since: seconds since the epoch; what ended before does not count.
    """
    states = set()
    for path in records:
        with suppress(OSError):
            if path.stat().st_mtime >= since:
                states.add(_read(path).get("state"))
    return "failed" in states and "stopped" not in states


def note_progress(unit: str, done: int, total: int, rate: float | None) -> None:
    """Note how far the work is; without effect where no record is kept.

    Args:
        unit: what is counted, in the plural.
        done: how much is done, earlier attempts included.
        total: how much there is to do.
        rate: how much is done in a second; None where that is not known yet.
    """
    if record := _record():
        left = (total - done) / rate if rate else None
        progress = {"unit": unit, "done": done, "total": total, "rate": rate, "seconds_left": left, "at": _now()}
        record.write(progress=progress, gpus=_gpus())


def count_model_load() -> None:
    """Note that a base model is being loaded; without effect where no record is kept."""
    if record := _record():
        record.write(model_loads=record.known.get("model_loads", 0) + 1, gpus=_gpus())


class _Record:
    """A record, and what this process knows of it.

    Args:
        path: where it lies.
        known: what this process says; the rest of the file is another's and stays as it is.
    """

    def __init__(self, path: Path, known: dict[str, Any]) -> None:
        self.path = path
        self.known = known
        self.process = os.getpid()
        self._new = "state" in known
        self._lock = threading.Lock()

    def write(self, **news: Any) -> None:
        """Put news into the file, which a reader sees either before or after; a failure is passed over."""
        with self._lock, suppress(OSError, ValueError):
            self.known |= news
            others = {} if self._new else _read(self.path)
            value = {**others, **self.known, "updated": _now()}
            # Not flushed to disk, which takes long where it is done at every step.
            with replacement(self.path) as temporary:
                temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
            # From now on what a process that does the work for this one has written is to stay.
            self._new = False


_current: _Record | None = None


def _record() -> _Record | None:
    """Return the record that this process may write to."""
    global _current
    if _current is None and os.environ.get(FILE_VARIABLE) and launched_rank() == 0:
        _current = _Record(Path(os.environ[FILE_VARIABLE]), {})
    # What a process forks has its memory, but not its record.
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
