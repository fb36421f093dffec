"""Stop signals, noted instead of obeyed at once; and processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from usertune.core.errors import StopRequested

# The last comes when a terminal is closed; a process that ignores it (nohup) goes on ignoring it.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# Those that schedulers send to every process of a job. Of a closed terminal the program that started them says so.
JOB_SIGNALS = STOP_SIGNALS[:-1]
# Of a process that is ended because another one of its group failed: what a shell says of SIGTERM.
EXIT_ENDED = 128 + signal.SIGTERM
# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1


def obeyed_signals() -> list[signal.Signals]:
    """Return the stop signals that this process does not ignore as nohup has processes ignore one."""
    return [number for number in STOP_SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


class DeferredSignal:
    """A ``with`` block in which the first stop signal is noted; a second one raises `StopRequested`.

    Args:
        on_first: called with the number of the first signal.
    """

    def __init__(self, on_first: Callable[[int], object]) -> None:
        self.signal: int | None = None
        self._on_first = on_first
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._note) for number in obeyed_signals()}

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if multiprocessing.parent_process() is not None:
            # A loader's worker has this handler from the process that forked it, which is the one to decide.
            return
        if self.signal is not None:
            raise StopRequested(number)
        self.signal = number
        self._on_first(number)


class SignalWatch(threading.Thread):
    """Notes the stop signals of a process that trains with others, all of which have to stop after the same step.

    A scheduler signals each of them, often more than once. Only a SIGTERM from the process that started this one ends
    it at once: torchrun sends it when another process failed. Make it before anything starts threads, since those
    must not take the signals.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.signal: int | None = None
        self._parent = os.getppid()
        signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
        for number in JOB_SIGNALS:
            # torchrun's process ignores them, and that is inherited.
            signal.signal(number, signal.SIG_DFL)
        self.start()

    def run(self) -> None:
        """Wait for signals for as long as the process lives."""
        while True:
            arrived = signal.sigwaitinfo(JOB_SIGNALS)
            if arrived.si_signo == signal.SIGTERM and arrived.si_pid == self._parent:
                os._exit(EXIT_ENDED)
            self.signal = self.signal or arrived.si_signo


def end_with_parent() -> None:
    """Let the kernel end this process (SIGKILL) when the one that started it has ended, in whatever way."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
