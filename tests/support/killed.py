"""Work that kills its own process at a chosen call. A server forks the processes, so torch is imported once."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["usertune.training.train_folds", "usertune.training.finetune"])
_LONGEST = 300


def exit_code(work: Callable[..., None], *arguments: Any, where: str = "", call: int = 0) -> int | None:
    """Run work in a process of its own, and return how it ended: 0, 1 for an error, a negative signal.

    Args:
        work: a function of a module, with arguments that can be pickled.
        where: ``module:function`` or ``module:Class.function``; the process is killed (SIGKILL) when it is called.
        call: which of its calls is meant, from 1.
    """
    process = _SERVER.Process(target=_work, args=(work, arguments, where, call), daemon=False)
    process.start()
    process.join(_LONGEST)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"{where}, call {call}: still running after {_LONGEST} s")
    return process.exitcode


def _work(work: Callable[..., None], arguments: tuple[Any, ...], where: str, call: int) -> None:
    if where:
        _kill_at(where, call)
    work(*arguments)


def _kill_at(where: str, call: int) -> None:
    module, _, path = where.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for step in owners:
        owner = getattr(owner, step)
    original, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(owner, name, counted)
