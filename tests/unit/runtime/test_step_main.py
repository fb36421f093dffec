"""How programs leave: exit codes, and what a person gets to read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """\
import errno, os, signal, time
from usertune.runtime import step_main
from usertune.core.errors import UserError

def main(arguments):
    {body}
    time.sleep(60)

step_main.run(step_main.argument_parser("A test."), main)
"""


def _run(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(body=body), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise UserError('study.yaml:3: mend this')", 2, "study.yaml:3: mend this\n"),
        (
            "raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'data/user_1.jsonl')",
            1,
            "[Errno 28] No space left on device: 'data/user_1.jsonl'\n",
        ),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, "interrupted;"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 75, "interrupted;"),
        ("os.kill(os.getpid(), signal.SIGUSR1)", 75, "interrupted;"),
        # Of a terminal that is closed.
        ("os.kill(os.getpid(), signal.SIGHUP)", 75, "interrupted;"),
    ],
)
def test_expected_end(body: str, code: int, said: str) -> None:
    done = _run(body)
    assert done.returncode == code
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1, "no traceback"


def test_a_closed_terminal_does_not_end_what_nohup_protects() -> None:
    command = [sys.executable, "-c", PROGRAM.format(body="os.kill(os.getpid(), signal.SIGHUP); raise UserError('on')")]
    done = subprocess.run(["nohup", *command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("on\n")


def test_reader_that_has_enough_is_no_error() -> None:
    done = _run(
        "print('line'); os.dup2(os.open('/dev/null', os.O_RDONLY), 1); raise BrokenPipeError(32, 'Broken pipe')"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("body", ["raise KeyError('unforeseen')", "raise OSError('of no file')"])
def test_unexpected_error_is_traced(body: str) -> None:
    done = _run(body)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_log_file_on_a_full_disk(tmp_path: Path) -> None:
    full = Path("/dev/full")
    assert full.is_char_device(), "Linux has a device on which every write fails"
    done = _run("raise UserError('the disk is full')", "--log", str(full))
    assert (done.returncode, done.stderr) == (2, "the disk is full\n")
    log = tmp_path / "file/usertune.log"
    log.parent.write_text("not a folder")
    done = _run("pass", "--log", str(log))
    assert done.returncode == 1
    assert str(log.parent) in done.stderr
    assert "Traceback" not in done.stderr
