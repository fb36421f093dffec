"""How programs leave: exit codes, and what a person gets to read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from usertune.runtime.job_log import SCREEN_VARIABLE, read_log

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
        ("raise UserError('study.yaml:3: fix this')", 2, "study.yaml:3: fix this\n"),
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


def test_a_job_whose_run_shows_its_messages_writes_to_its_log_alone(tmp_path: Path) -> None:
    """Also what libraries and child processes write; what the log cannot take goes to the screen."""
    writes = "print('a library', flush=True); os.system('echo a child'); "
    for log, before, on_screen in ((tmp_path / "job.log", writes, ""), (Path("/dev/full"), "", "bad\n")):
        program = PROGRAM.format(body=f"{before}raise UserError('bad')")
        with (tmp_path / "screen").open("w+") as screen:
            state = os.fstat(screen.fileno())
            subprocess.run(
                [sys.executable, "-c", program, "--log", str(log)],
                stdout=screen,
                stderr=screen,
                env={**os.environ, SCREEN_VARIABLE: f"{state.st_dev}:{state.st_ino}"},
                check=False,
                timeout=60,
            )
            screen.seek(0)
            assert screen.read() == on_screen
    text = (tmp_path / "job.log").read_text()
    assert "a child\n" in text
    assert "a library\n" in text
    assert [entry.level for entry in read_log(tmp_path / "job.log") if entry.text == "bad"] == ["ERROR"]
    # The screen of another run, such as the one that submitted this job to a cluster.
    assert _run("raise UserError('bad')", "--log", str(tmp_path / "job.log")).stderr == "bad\n"


USERS = """\
import os, signal
from usertune.runtime import step_main
from usertune.core.errors import UserError

def work(user):
    step_main.logger.info("user %s begins", user)
    {body}

def main(arguments):
    step_main.for_each_user(arguments.users, arguments.user_log, work)

parser = step_main.argument_parser("A test.")
step_main.add_users(parser)
step_main.run(parser, main, record=False)
"""


def _run_users(body: str, folder: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, str], dict[str, str]]:
    """Return the program's exit status, the texts of its logs, and the state in every user's record."""
    arguments = ["--users", "1-3,ana", "--user-log", f"{folder}/user_{{user}}.log", "--log", f"{folder}/all.log"]
    command = [sys.executable, "-c", USERS.format(body=body), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    logs = {path.stem: path.read_text() for path in folder.glob("*.log")}
    records = folder.glob("*.progress.json")
    return done, logs, {path.name.split(".")[0]: json.loads(path.read_text())["state"] for path in records}


def test_every_user_has_a_log_and_a_record_of_its_own(tmp_path: Path) -> None:
    done, logs, states = _run_users("pass", tmp_path)
    assert done.returncode == 0, done.stderr
    users = [f"user_{user}" for user in ("1", "2", "3", "ana")]
    assert states == dict.fromkeys(users, "ended")
    assert set(logs) == {*users, "all"}
    assert [line.split("INFO ")[1] for line in logs["user_2"].splitlines()] == ["user 2 begins"]
    assert len(logs["all"].splitlines()) == 4


def test_the_problems_of_all_users_of_a_job_are_reported(tmp_path: Path) -> None:
    done, logs, states = _run_users("if user in ('2', 'ana'): raise UserError(f'bad line of {user}')", tmp_path)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "begins" not in line] == [
        "bad line of 2", "bad line of ana", "2 of the 4 users of this job failed: 2,ana",
    ]  # fmt: skip
    assert states == {"user_1": "ended", "user_2": "failed", "user_3": "ended", "user_ana": "failed"}
    assert "bad line of 2" in logs["user_2"]
    assert "bad line" not in logs["user_3"]


def test_a_job_that_is_stopped_begins_no_other_user(tmp_path: Path) -> None:
    done, logs, states = _run_users("if user == '2': os.kill(os.getpid(), signal.SIGTERM)", tmp_path)
    assert done.returncode == 75
    assert states == {"user_1": "ended", "user_2": "stopped"}
    assert set(logs) == {"user_1", "user_2", "all"}


def test_users_that_cannot_be_read_are_a_usage_error(tmp_path: Path) -> None:
    command = [sys.executable, "-c", USERS.format(body="pass"), "--users", "3-1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "the range '3-1' counts backwards" in done.stderr
