"""Deferred stop signals, and processes that end with their parent."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from usertune.core.errors import StopRequested

# SIGHUP comes from a closed terminal; a process that already ignores it (nohup) keeps ignoring it.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# Signals that schedulers send to every process of a job. For a closed terminal, the parent signals its children.
JOB_SIGNALS = STOP_SIGNALS[:-1]
# Exit code of a process that is ended because another process of its group failed; as in a shell for SIGTERM.
EXIT_ENDED = 128 + signal.SIGTERM
# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1


def obeyed_signals() -> list[signal.Signals]:
    """Return the stop signals that this process handles: all, or all but SIGHUP under nohup."""
    return [number for number in STOP_SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


class DeferredSignal:
    """A ``with`` block that defers the first stop signal; a second one raises `StopRequested`.

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
            # A loader worker inherits this handler, but only its parent decides.
            return
        if self.signal is not None:
            raise StopRequested(number)
        self.signal = number
        self._on_first(number)


class SignalWatch(threading.Thread):
    """Records stop signals of a training process, so that all processes of the group stop after the same step.

    A scheduler signals each process, often more than once. Only a SIGTERM from the parent ends the process at once:
    torchrun sends it when another process failed. Create it before any other thread, since threads inherit the blocked
    signals.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.signal: int | None = None
        self._parent = os.getppid()
        signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
        for number in JOB_SIGNALS:
            # Otherwise inherited from torchrun, which ignores them.
            signal.signal(number, signal.SIG_DFL)
        self.start()

    def run(self) -> None:
        """Wait for signals until the process ends."""
        while True:
            arrived = signal.sigwaitinfo(JOB_SIGNALS)
            if arrived.si_signo == signal.SIGTERM and arrived.si_pid == self._parent:
                os._exit(EXIT_ENDED)
            self.signal = self.signal or arrived.si_signo


def end_with_parent() -> None:
    """Make the kernel end this process (SIGKILL) when its parent ends for any reason."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
