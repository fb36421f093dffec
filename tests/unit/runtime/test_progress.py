"""Progress as log lines and in the record of a job."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from usertune.runtime import job_record
from usertune.runtime import progress as progress_module
from usertune.runtime.launchers import PARENT
from usertune.runtime.progress import Progress

PROGRAM = """\
import os, signal, subprocess, sys, time
from pathlib import Path
from usertune.runtime import job_record
from usertune.runtime import step_main
from usertune.core.errors import UserError
from usertune.runtime.progress import Progress

def main(arguments):
    {body}

step_main.run(step_main.argument_parser("A test."), main)
"""
WORKER = """\
from usertune.runtime import job_record
from usertune.runtime.progress import Progress
job_record.count_model_load()
Progress(4, "steps").advance(4)
"""


def start(body: str, log: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM.format(body=body), "--log", str(log)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def run(body: str, log: Path, **environment: str) -> tuple[int, dict[str, Any]]:
    """Run a program to its end; return its exit code and its record."""
    process = start(body, log, **environment)
    process.communicate(timeout=60)
    return process.returncode, record(log)


def record(log: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(log.with_name("lora.progress.json").read_text())
    return value


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    return tmp_path / "train/lora.log"


def test_a_program_that_ends_well(log: Path) -> None:
    body = "job_record.count_model_load(); Progress(8, 'samples', done=2).advance(6)"
    code, found = run(body, log, SLURM_JOB_ID="77", SLURMD_NODENAME="n0", CUDA_VISIBLE_DEVICES="0,3")
    assert code == 0
    assert (found["state"], found["error"], found["attempt"], found["earlier"]) == ("ended", None, 1, [])
    assert (found["slurm_job"], found["node"], found["gpus"], found["model_loads"]) == ("77", "n0", ["0", "3"], 1)
    done = found["progress"]
    assert (done["unit"], done["done"], done["total"], done["seconds_left"]) == ("samples", 8, 8, 0)
    assert done["rate"] > 0
    times = [datetime.fromisoformat(found[key]) for key in ("started", "updated", "ended")]
    assert all(moment.tzinfo for moment in times)
    assert times[0] <= times[2]
    assert not list(log.parent.glob(".*")), "nothing is left next to it"


@pytest.mark.parametrize(
    ("body", "state", "error"),
    [
        ("raise UserError('sample 7 is bad\\\\nthe rest')", "failed", "sample 7 is bad"),
        ("raise OSError(28, 'No space left', 'data.jsonl')", "failed", "[Errno 28] No space left: 'data.jsonl'"),
        ("raise KeyError('unforeseen')", "failed", "KeyError: 'unforeseen'"),
        ("raise ValueError", "failed", "ValueError: "),
        ("sys.exit(3)", "failed", "SystemExit: 3"),
        ("sys.exit(0)", "ended", None),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", "stopped", None),
    ],
)
def test_how_a_program_ended(body: str, state: str, error: str | None, log: Path) -> None:
    _, found = run(body.replace("\\\\", "\\"), log)
    assert (found["state"], found["error"]) == (state, error)
    assert found["ended"]


def test_while_it_runs(log: Path) -> None:
    process = start("progress = Progress(8, 'samples'); time.sleep(60)", log)
    wait_for(lambda: log.with_name("lora.progress.json").exists() and record(log).get("progress"))
    found = record(log)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert (found["state"], found["process"], found["ended"]) == ("running", process.pid, None)
    assert found["progress"].items() >= {"done": 0, "total": 8, "rate": None, "seconds_left": None}.items()
    assert record(log)["state"] == "stopped"


def test_a_killed_attempt_is_remembered_by_the_next(log: Path) -> None:
    process = start("job_record.count_model_load(); time.sleep(60)", log)
    wait_for(lambda: log.with_name("lora.progress.json").exists() and record(log).get("model_loads"))
    process.kill()
    process.communicate()
    _, found = run("raise UserError('bad')", log)
    assert found["attempt"] == 2
    (killed,) = found["earlier"]
    assert (killed["state"], killed["process"], killed["model_loads"]) == ("running", process.pid, 1)
    assert (found["process"] != process.pid, "model_loads" in found) == (True, False)
    assert run("pass", log)[1]["attempt"] == 3
    _, found = run("pass", log)
    assert (found["attempt"], len(found["earlier"])) == (1, 3), "after a success the count starts again"


def test_earlier_attempts_are_bounded(log: Path) -> None:
    for _ in range(job_record.EARLIER_ATTEMPTS_KEPT + 5):
        with job_record.kept(log):
            pass
    assert len(record(log)["earlier"]) == job_record.EARLIER_ATTEMPTS_KEPT


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"attempt": "x", "earlier": 3}', "\xff", "[" * 100_000])
def test_a_damaged_record_is_replaced(text: str, log: Path) -> None:
    log.with_name("lora.progress.json").write_text(text, encoding="latin-1")
    with job_record.kept(log):
        pass
    assert (record(log)["state"], record(log)["attempt"]) == ("ended", 1)


def test_a_record_that_cannot_be_written_does_not_hurt(tmp_path: Path) -> None:
    in_the_way = tmp_path / "logs"
    in_the_way.write_text("no folder")
    with job_record.kept(in_the_way / "lora.log"):
        job_record.count_model_load()
        Progress(1, "samples").advance(1)
    folder = tmp_path / "lora.progress.json"
    folder.mkdir()
    with job_record.kept(tmp_path / "lora.log"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "lora.progress.json"], "no temporary file"


def test_no_record_without_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for log in (None, tmp_path / "device"):
        with job_record.kept(log):
            job_record.count_model_load()
            Progress(1, "samples").advance(1)
    assert not list(tmp_path.iterdir())


def test_the_first_training_process_updates_the_programs_record(log: Path) -> None:
    body = f"subprocess.run([sys.executable, '-c', {WORKER!r}], check=True); job_record.note_progress"
    _, found = run(body, log, RANK="0", **{PARENT: "1"})
    assert (found["state"], found["model_loads"], found["progress"]["done"]) == ("ended", 1, 4)
    _, found = run(body, log, RANK="1", **{PARENT: "1"})
    assert "model_loads" not in found, "only the first process records it"
    assert "progress" not in found
    _, found = run(body, log, RANK="1")
    assert found["model_loads"] == 1, "a number that another launcher left behind"


def test_what_is_forked_does_not_write(log: Path) -> None:
    body = "pid = os.fork(); pid or (job_record.count_model_load(), os._exit(0)); os.waitpid(pid, 0)"
    assert "model_loads" not in run(body, log)[1]


def test_signs_of_life(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_record, "SIGN_OF_LIFE_SECONDS", 0.02)
    with job_record.kept(log):
        first = record(log)["updated"]
        wait_for(lambda: record(log)["updated"] > first)


def test_signals_stay_with_the_main_thread(log: Path) -> None:
    """A program that blocks a signal to wait for it receives it: no other thread does."""
    body = (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); os.kill(os.getpid(), signal.SIGTERM); "
        "time.sleep(0.2); sys.exit(signal.sigtimedwait([signal.SIGTERM], 5) is None)"
    )
    assert run(body, log)[0] == 0


def test_progress_is_said_every_few_seconds(
    log: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now)
    caplog.set_level(logging.INFO, "usertune")
    with job_record.kept(log):
        progress = Progress(20, "samples", done=4)
        now += 2
        progress.advance(4)
        assert record(log)["progress"]["done"] == 4, "too soon to be said"
        now += 6
        progress.advance(4)
        found = record(log)["progress"]
        assert (found["done"], found["rate"], found["seconds_left"]) == (12, 1.0, 8.0)
        progress.advance(8)
        assert record(log)["progress"]["done"] == 20, "the end is always said"
    assert caplog.messages == [
        "12 of 20 samples, 1.0 samples/s, about 8 s left",
        "20 of 20 samples, 2.0 samples/s, about 0 s left",
    ]


def test_only_programs_that_failed_since_then_and_were_not_stopped_count(tmp_path: Path) -> None:
    for name, state in (("a", "failed"), ("b", "ended"), ("c", "stopped"), ("d", "{")):
        (tmp_path / name).write_text(state if state == "{" else json.dumps({"state": state}))
    a, b, c, d, absent = (tmp_path / name for name in "abcde")
    now = time.time()
    assert job_record.failed_since([a, b, d, absent], now - 60)
    assert not job_record.failed_since([a, b], now + 60)
    assert not job_record.failed_since([a, c], now - 60)
    assert not job_record.failed_since([b, d], now - 60)
