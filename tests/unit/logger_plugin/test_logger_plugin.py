"""What the logger says of recorded runs of Snakemake, in files and on terminals."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from snakemake_logger_plugin_usertune import LogHandler
from tests.support.synthetic_study import SyntheticStudy
from usertune.runtime.job_log import SCREEN_VARIABLE

# A training that diverges in its first attempt; the second one is not started.
FAILED_RUN = Path(__file__).with_name("failed_run.jsonl")
LOG = Path("results/logs/train/lora.log")
ERROR = "training stopped at step 3 of 4: the loss is nan; lower training.learning_rate"
LOG_TEXT = f"2026-11-30 01:18:44,020 INFO training on 15 samples, 4 steps\n2026-11-30 01:18:44,829 ERROR {ERROR}\n"
PLAIN = f"""\
Study tiny: study.yaml, results in results/
19 jobs to run, with 3 prediction jobs, 2 training jobs
1 of 19  Checking the samples of users 11-13  1.8 s
2 of 19  Checking the samples of users 1-2  2.1 s
3 of 19  Checking the samples of users 74  1.4 s
4 of 19  Predicting users 1-2 with vanilla  0.7 s
5 of 19  Comparing the samples of the splits  0.9 s
6 of 19  Scoring users 1-2 with vanilla  0.9 s
failed: Training lora, after 17.1 s, exit status 2
  results/logs/train/lora.log:
    training on 15 samples, 4 steps
    {ERROR}
Trying to restart job 6 (Training lora).
failed: Training lora, attempt 2, after 0.4 s, exit status 2
  results/logs/train/lora.log:
    training on 15 samples, 4 steps
    {ERROR}

1 of 19 jobs failed, 6 are done:
  Training lora: {ERROR}
    results/logs/train/lora.log
Finished work is kept. After the cause is fixed, the same command continues from there.
"""


class Stream(io.StringIO):
    """A file, or a terminal."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def text(self) -> str:
        """All that was written, without colours and movements of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue()).replace("\r", "")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    # The logger sets it for the jobs that it would show.
    monkeypatch.setenv(SCREEN_VARIABLE, "")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of the training, in a folder without results."""
    monkeypatch.chdir(tmp_path)
    LOG.parent.mkdir(parents=True)
    LOG.write_text(LOG_TEXT)
    return LOG


def handler(stream: Stream, monkeypatch: pytest.MonkeyPatch, *quiet: str, **settings: Any) -> LogHandler:
    """Return the handler as Snakemake makes it."""
    usual: dict[str, Any] = dict.fromkeys(
        ("printshellcmds", "nocolor", "debug_dag", "verbose", "stdout", "dryrun"), False
    )
    quietness = {Quietness.parse_choice(choice) for choice in quiet}
    common = SimpleNamespace(**{**usual, "quiet": quietness, "show_failed_logs": True, **settings})
    monkeypatch.setattr("sys.stderr", stream)
    made = LoggerPluginRegistry().get_plugin("usertune").log_handler(common, None)
    assert isinstance(made, LogHandler)
    # The logger ends with results of a study.
    made.follow(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.setattr(made, "_records", dict)
    monkeypatch.setattr(made, "_print_first_results", lambda _: None)
    return made


def record(**values: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"levelno": logging.INFO, "levelname": "INFO", **values})


def recorded() -> Iterator[logging.LogRecord]:
    began = time.time() - 30
    for line in FAILED_RUN.read_text().splitlines():
        values = json.loads(line)
        yield record(**{**values, "created": began + values["created"]})


def play(to: LogHandler, *records: logging.LogRecord) -> None:
    for one in records:
        to.handle(one)
    to.close()


@pytest.mark.usefixtures("log")
def test_a_run_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    play(handler(stream, monkeypatch), *recorded())
    assert stream.getvalue() == PLAIN


@pytest.mark.usefixtures("log")
def test_a_run_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(terminal=True)
    own = handler(stream, monkeypatch)
    records = list(recorded())
    training = next(number for number, one in enumerate(records) if getattr(one, "rule_name", "") == "train")
    for one in records[: training + 1]:
        own.handle(one)
    own._live.refresh()  # type: ignore[union-attr]
    shown = stream.text
    assert " 6 of 19 jobs, " in shown
    assert "data 3/3, leakage 1/1, predictions 1/3, weights 0/2, scores 1/3, tables 0/1," in shown
    assert re.search(r"  Training lora +2\d s", shown)
    for one in records[training + 1 :]:
        own.handle(one)
    own.close()
    assert "\x1b[?25l" not in stream.getvalue(), "a hidden cursor stays hidden if the program is killed"
    assert "\x1b[31m" in stream.getvalue() or "\x1b[1;31m" in stream.getvalue(), "failures are red"
    lines = stream.text.splitlines()
    assert not [line for line in lines if "of 19  Checking" in line], "quick jobs leave no line"
    for start in ("    training stopped at step 3 of 4: the loss is nan; lower", "Trying to restart job 6 (Training"):
        assert any(start in line for line in lines), lines
    own.close()
    assert stream.text.splitlines() == lines, "Snakemake closes handlers twice"


@pytest.mark.usefixtures("log")
def test_a_terminal_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Stream(terminal=True)
    play(handler(stream, monkeypatch), *recorded())
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3|4|9)\d", stream.getvalue())
    monkeypatch.setenv("TERM", "dumb")
    stream = Stream(terminal=True)
    play(handler(stream, monkeypatch), *recorded())
    assert "\x1b" not in stream.getvalue()
    assert "1 of 19  Checking the samples of users 11-13  1.8 s\n" in stream.getvalue()


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(("quiet", "shown"), [("progress", False), ("rules", False), ("all", False), ("host", True)])
def test_quiet(quiet: str, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    play(handler(stream, monkeypatch, quiet), *recorded())
    assert ("Scoring users" in stream.getvalue()) == shown
    assert ("Study tiny" in stream.getvalue()) == (quiet != "all")
    assert stream.getvalue().count(f"    {ERROR}") == 2, "failures are never hidden"


def test_warnings_and_errors_of_snakemake_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    failed = record(msg="WorkflowError:\nNo space left", event="error", levelno=logging.ERROR)
    odd = record(msg="odd", event="resources_info", levelno=logging.WARNING)
    play(handler(stream, monkeypatch, "all"), record(msg="Select jobs to execute..."), odd, failed)
    assert stream.getvalue() == "odd\nWorkflowError:\nNo space left\n"


@pytest.mark.usefixtures("log")
def test_what_the_executor_says_of_a_failed_job_is_shown(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    made = handler(stream, monkeypatch)
    for one in recorded():
        if str(getattr(one, "event", "")) == "job_error":
            one.__dict__.update(rule_msg="SLURM job 4 ended as CANCELLED. ", aux={"external_jobid": "4"})
        play(made, one)
    assert (
        "failed: Training lora, after 17.1 s, exit status 2\n  SLURM job 4 ended as CANCELLED\n  results" in stream.text
    )


def test_plans_are_snakemakes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in ({"dryrun": True}, {"verbose": True}, {"debug_dag": True}):
        stream = Stream()
        plan = handler(stream, monkeypatch, "host", "reason", **settings)
        play(plan, *(one for one in recorded() if getattr(one, "event", "") in ("run_info", "")))
        assert "Job stats:\njob                    count" in stream.getvalue()
        assert SCREEN_VARIABLE not in os.environ or os.environ[SCREEN_VARIABLE] == ""


def test_warnings_in_the_log_of_a_job(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of the run write to their logs alone, so the run shows their warnings."""
    lines = [f"2026-11-30 01:18:44,020 WARNING warning: user {user}: odd\n  its answer" for user in range(1, 8)]
    log.write_text("2026-11-30 01:18:44,020 INFO fine\n" + "\n".join(lines) + "\n")
    stream = Stream()
    own = handler(stream, monkeypatch)
    planned = record(msg="", event="run_info", stats={"train": 1, "total": 1})
    common = {"rule_name": "train", "wildcards": {}, "local": True, "shellcmd": "python", "log": [str(log)]}
    started = record(msg="", event="job_info", jobid=1, rule_msg=None, created=0.0, **common)
    finished = record(msg="", event="job_finished", job_id=1, created=130.0)
    play(own, planned, started, finished)
    shown = stream.getvalue().splitlines()
    assert shown[1:3] == ["warning: train: user 1: odd", "  its answer"]
    assert shown[11:13] == [f"warning: train: more warnings in {log}", "1 of 1  train  2 min 10 s"]


def test_the_end_of_a_run(complete: SyntheticStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    own = handler(stream, monkeypatch)
    own.follow(complete.study, complete.recipes)
    play(own, record(msg="Nothing to be done (all requested files are present and up to date)."))
    shown = stream.getvalue()
    assert re.search(r"experiment +click accuracy \(%\) +difference to vanilla", shown)
    summary = Path("tables/summary.md").read_text()
    for value in re.findall(r"\| +(\d+\.\d) \[", summary):
        assert f" {value} " in shown
    assert "Report: " in shown
    assert "The run took" not in shown
    assert ("In brackets: 95 % intervals." in shown) == (" [" in shown)


def test_an_experiment_whose_users_are_scored(complete: SyntheticStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    own = handler(stream, monkeypatch)
    monkeypatch.delattr(own, "_print_first_results")
    own.follow(complete.study, complete.recipes)
    name, *_ = complete.study.experiments
    rule = f"score {name} users 1-2"
    jobs: list[logging.LogRecord] = [record(msg="", event="run_info", stats={rule: 1, "total": 1})]
    common = {"rule_name": rule, "local": True, "shellcmd": "python", "log": [], "rule_msg": "Scoring"}
    jobs.append(record(msg="", event="job_info", jobid=1, created=0.0, wildcards={}, **common))
    jobs.append(record(msg="", event="job_finished", job_id=1, created=1.0))
    play(own, *jobs)
    lines = stream.getvalue().splitlines()
    assert lines[1] == "1 of 1  Scoring  1.0 s"
    assert re.fullmatch(rf"{name}: click accuracy \(%\) \d+\.\d, the mean of \d test users", lines[2])
