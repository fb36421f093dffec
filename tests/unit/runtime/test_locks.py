"""Work that is not done twice at once, and locks that are gone with whoever held them."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from usertune.core.errors import UserError
from usertune.runtime import locks
from usertune.runtime.locks import hold_results, one_at_a_time

# Locks a file, prints when it has the lock, and keeps it until its standard input is closed.
WORKER = """
import json, logging, sys
from pathlib import Path
from usertune.runtime.locks import one_at_a_time
logging.basicConfig(level=logging.INFO)
with one_at_a_time(Path(json.loads(sys.argv[1])), "training lora"):
    print("working", flush=True)
    sys.stdin.read()
"""

# Locks a folder, prints when it has the lock, and keeps it until its standard input is closed.
HOLDER = """
import json, sys
from pathlib import Path
from usertune.runtime.locks import hold_results
hold_results(Path(json.loads(sys.argv[1])))
print("holding", flush=True)
sys.stdin.read()
"""

# Takes a lock file and a count, and increments the number in a file next to it that many times.
COUNTER = """
import json, sys, time
from pathlib import Path
from usertune.runtime.locks import one_at_a_time
lock, count = json.loads(sys.argv[1])
number = Path(lock).with_name("number")
for _ in range(count):
    with one_at_a_time(Path(lock), "counting"):
        before = int(number.read_text())
        time.sleep(0.002)
        number.write_text(str(before + 1))
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(run_python: Start) -> Iterator[Start]:
    """Start processes that are ended with the test."""
    processes = []

    def run(program: str, argument: object) -> subprocess.Popen[str]:
        processes.append(run_python(program, argument))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def says(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def waits(process: subprocess.Popen[str]) -> str:
    """Return the message of a process when it begins to wait."""
    assert process.stderr is not None
    return process.stderr.readline().strip()


def test_the_second_waits_until_the_first_is_done(tmp_path: Path, start: Start) -> None:
    lock = tmp_path / "new" / ".lock"
    first = start(WORKER, lock)
    assert says(first) == "working"
    second = start(WORKER, lock)
    assert f"another process is training lora already; waiting for it ({lock})" in waits(second)
    assert second.poll() is None
    first.communicate("", timeout=30)
    assert first.returncode == 0
    assert says(second) == "working"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nobody_waits_for_a_dead_process(tmp_path: Path, start: Start, how: signal.Signals) -> None:
    first, lock = start(WORKER, tmp_path / ".lock"), tmp_path / ".lock"
    assert says(first) == "working"
    second = start(WORKER, lock)
    assert "waiting" in waits(second)
    first.send_signal(how)
    assert says(second) == "working"
    assert first.wait(timeout=30) == -how


def test_a_lock_file_that_was_left_behind_holds_nobody_up(
    tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    first = start(WORKER, tmp_path / ".lock")
    assert says(first) == "working"
    first.kill()
    first.wait(timeout=30)
    assert (tmp_path / ".lock").exists()
    with caplog.at_level(logging.INFO), one_at_a_time(tmp_path / ".lock", "training lora"):
        assert caplog.messages == []


def test_an_error_in_the_block_frees_the_lock(tmp_path: Path, start: Start) -> None:
    with pytest.raises(RuntimeError, match="in the block"), one_at_a_time(tmp_path / ".lock", "training lora"):
        raise RuntimeError("in the block")
    assert says(start(WORKER, tmp_path / ".lock")) == "working"


def test_no_two_are_ever_in_the_block_at_once(tmp_path: Path, start: Start) -> None:
    (tmp_path / "number").write_text("0")
    counters = [start(COUNTER, [tmp_path / ".lock", 20]) for _ in range(4)]
    for counter in counters:
        _, error = counter.communicate(timeout=120)
        assert counter.returncode == 0, error
    assert (tmp_path / "number").read_text() == "80"


def test_the_wait_is_said_again_now_and_then(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = start(WORKER, tmp_path / ".lock")
    assert says(first) == "working"
    monkeypatch.setattr(locks, "SAY_EVERY_SECONDS", 0.1)

    class EndTheWait(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if len(caplog.messages) == 3:
                first.kill()

    locks.logger.addHandler(handler := EndTheWait())
    try:
        with caplog.at_level(logging.INFO), one_at_a_time(tmp_path / ".lock", "training lora"):
            assert len(caplog.messages) >= 3
    finally:
        locks.logger.removeHandler(handler)


def test_results_that_another_process_holds_are_refused_and_it_is_named(tmp_path: Path, start: Start) -> None:
    folder = tmp_path / "new" / "results"
    holder = start(HOLDER, folder)
    assert says(holder) == "holding"
    name = rf"process {holder.pid} on {re.escape(socket.gethostname())}, since \d+-\d+-\d+T[^)]+"
    with pytest.raises(UserError, match=rf"another snakemake is working on these results \({name}\); wait until"):
        hold_results(folder)
    assert holder.poll() is None


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_results_are_free_when_their_holder_has_ended(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, how: signal.Signals | None
) -> None:
    holder = start(HOLDER, tmp_path)
    assert says(holder) == "holding"
    if how is not None:
        holder.send_signal(how)
    holder.communicate("", timeout=30)
    monkeypatch.setattr(locks, "_held", [])
    hold_results(tmp_path)
    assert f"process {os.getpid()} on " in (tmp_path / locks.RESULTS_HOLDER).read_text()
    second = start(HOLDER, tmp_path)
    _, error = second.communicate("", timeout=30)
    assert f"process {os.getpid()} on {socket.gethostname()}" in error


def test_a_holder_who_left_no_name_is_unknown(tmp_path: Path, start: Start) -> None:
    holder = start(HOLDER, tmp_path)
    assert says(holder) == "holding"
    (tmp_path / locks.RESULTS_HOLDER).unlink()
    with pytest.raises(UserError, match="unknown process"):
        hold_results(tmp_path)


def test_other_results_are_not_held(tmp_path: Path, start: Start) -> None:
    assert [says(start(HOLDER, tmp_path / name)) for name in ("one", "two")] == ["holding", "holding"]
