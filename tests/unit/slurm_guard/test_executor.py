"""The guarded executor: real Snakemake on a stand-in for SLURM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import snakemake_executor_plugin_slurm_guarded as guarded
from slurm_guard.journal import Journal, submissions
from tests.support import stand_in_slurm

NAME = "usertune-test"
SNAKEFILE = """
configfile: "config.yaml"

rule all:
    localrule: True
    input: "a.txt", "b.txt"

rule work:
    input: "data"
    output: "{name}.txt"
    params: setting=config["setting"]
    resources: mem_mb=100, runtime=5
    shell: "touch {output}"
"""


class Run:
    """A small workflow in a folder, on a stand-in for SLURM in another."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "work"
        self.cluster = root / "cluster"
        self.journal = Journal(root / "jobs.jsonl")
        self.process: subprocess.Popen[str] | None = None
        self.folder.mkdir()
        (self.cluster / "bin").mkdir(parents=True)
        (self.cluster / "jobs").mkdir()
        (self.folder / "Snakefile").write_text(SNAKEFILE)
        (self.folder / "config.yaml").write_text("setting: 1\n")
        (self.folder / "data").write_text("1")
        program = f"#!{sys.executable} -IS\n{Path(stand_in_slurm.__file__).read_text()}"
        for name in stand_in_slurm.COMMANDS:
            (self.cluster / "bin" / name).write_text(program)
            (self.cluster / "bin" / name).chmod(0o755)

    def start(self, *arguments: str) -> None:
        """Start Snakemake."""
        self.end()
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SNAKEMAKE_"))}
        environment = {
            **kept,
            "PATH": os.pathsep.join([str(self.cluster / "bin"), os.environ["PATH"]]),
            guarded.JOB_NAME: NAME,
            guarded.JOURNAL: str(self.journal.path),
        }
        options = (
            "--executor", "slurm-guarded", "--jobs", "5", "--latency-wait", "1", "--nolock", "--rerun-incomplete",
            "--slurm-guarded-init-seconds-before-status-checks", "1",
            "--slurm-guarded-longest-seconds-between-status-checks", "1",
        )  # fmt: skip
        with (self.folder / "output").open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", *options, *arguments],
                cwd=self.folder, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True,
                start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip

    def end(self) -> None:
        """Kill Snakemake, as if its machine failed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def exit_code(self) -> int:
        """Wait for the end of Snakemake."""
        assert self.process is not None
        return self.process.wait(60)

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def says(self, text: str) -> None:
        """Wait until Snakemake prints something."""
        self.wait_for(lambda: text in self.output)

    def wait_for(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert self.process is not None
            assert self.process.poll() is None or condition(), self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.05)

    def states(self) -> dict[str, str]:
        """Return the state of every job of the cluster."""
        files = [path for path in (self.cluster / "jobs").iterdir() if path.suffix != ".new"]
        return {path.name: path.read_text().split()[0] for path in files}

    def submitted(self, count: int) -> list[str]:
        """Wait until that many jobs were submitted in total and are in the journal; return their numbers."""
        self.wait_for(lambda: len(submissions(self.journal.read())) == count)
        return sorted(submissions(self.journal.read()))

    def set(self, state: str, *jobs: str) -> None:
        """Set the state of jobs."""
        for job in jobs:
            stand_in_slurm.write(self.cluster / "jobs" / job, f"{state} {NAME}")

    def complete(self, *jobs: str) -> None:
        """Complete jobs."""
        submitted = submissions(self.journal.read())
        for job in jobs:
            (self.folder / f"{submitted[job]['wildcards']['name']}.txt").touch()
        self.set("COMPLETED", *jobs)

    def asked(self, command: str) -> list[list[str]]:
        """Return the arguments of every call of one of SLURM's commands."""
        lines = (self.cluster / "asked").read_text().splitlines()
        return [words[1:] for words in map(json.loads, lines) if words[0] == command]

    def submissions(self) -> int:
        """Return how often a job was submitted."""
        return sum("--test-only" not in arguments for arguments in self.asked("sbatch"))

    def events(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.journal.read() if entry["event"] == event]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    run.end()


def test_jobs_are_submitted_watched_and_written_down(run: Run) -> None:
    run.start()
    jobs = run.submitted(2)
    run.set("RUNNING", *jobs)
    run.complete(*jobs)
    assert run.exit_code() == 0, run.output
    assert {entry["wildcards"]["name"] for entry in run.events("submitted")} == {"a", "b"}
    assert [(entry["rule"], entry["attempt"]) for entry in run.events("submitted")] == [("work", 1)] * 2
    assert [entry["state"] for entry in run.events("ended")] == ["COMPLETED"] * 2
    # One question for all jobs, by the name of the study.
    assert {arguments[1] for arguments in run.asked("squeue")} == {f"--name={NAME}"}
    assert run.asked("scancel") == []


def test_jobs_that_fail_are_tried_again_and_then_fail_the_run(run: Run) -> None:
    run.start("--retries", "1", "a.txt")
    (first,) = run.submitted(1)
    run.set("TIMEOUT", first)
    second = run.submitted(2)[1]
    run.set("OUT_OF_MEMORY", second)
    assert run.exit_code() == 1
    assert f"SLURM job {first} ended as TIMEOUT" in run.output
    assert f"SLURM job {second} ended as OUT_OF_MEMORY" in run.output
    assert [entry["attempt"] for entry in run.events("submitted")] == [1, 2]


def test_a_controller_that_is_away_costs_no_job(run: Run) -> None:
    run.start()
    jobs = run.submitted(2)
    (run.cluster / "away").touch()
    run.says("its jobs continue, and this run waits")
    run.complete(*jobs)
    (run.cluster / "away").unlink()
    assert run.exit_code() == 0, run.output
    assert run.submissions() == 2


def test_a_controller_that_stays_away_ends_the_run_and_no_job(run: Run) -> None:
    run.start("--slurm-guarded-unreachable-minutes", "0")
    jobs = run.submitted(2)
    (run.cluster / "away").touch()
    assert run.exit_code() == 1
    assert "SLURM has not answered for 0 minutes (squeue: Unable to contact slurm controller)" in run.output
    assert "when it answers again, the same command re-attaches to them" in run.output
    assert set(run.states().values()) == {"PENDING"}
    # Jobs that wait need this folder when they begin.
    assert len(list((run.folder / ".snakemake").glob("tmp.*"))) == 1
    (run.cluster / "away").unlink()
    run.start()
    run.says("re-attaches to SLURM job")
    run.complete(*jobs)
    assert run.exit_code() == 0, run.output
    assert run.submissions() == 2


@pytest.mark.parametrize("meanwhile", ["PENDING", "RUNNING", "COMPLETED"])
def test_jobs_of_a_run_that_was_killed_are_re_attached(run: Run, meanwhile: str) -> None:
    run.start()
    jobs = run.submitted(2)
    run.end()
    if meanwhile == "COMPLETED":
        run.complete(*jobs)
    else:
        run.set(meanwhile, *jobs)
    run.start()
    run.wait_for(lambda: run.output.count("of an earlier run.") == 2)
    message = f"SLURM jobs of an earlier run: {', '.join(jobs)}."
    assert (message in run.output) == (meanwhile != "COMPLETED"), "a job that has ended cannot be cancelled"
    run.complete(*jobs)
    assert run.exit_code() == 0, run.output
    assert run.submissions() == 2
    assert sorted(entry["job"] for entry in run.events("adopted")) == jobs
    assert run.asked("scancel") == []


@pytest.mark.parametrize(("file", "text"), [("config.yaml", "setting: 2\n"), ("data", "2")])
def test_jobs_whose_work_has_changed_are_ended_before_others_begin(run: Run, file: str, text: str) -> None:
    run.start("a.txt")
    (old,) = run.submitted(1)
    run.end()
    run.set("RUNNING", old)
    (run.cluster / "lingers").touch()
    (run.folder / file).write_text(text)
    run.start("a.txt")
    run.says(f"Cancelling SLURM jobs of an earlier run: {old}; their work has changed.")
    run.wait_for(lambda: run.states()[old] == "COMPLETING")
    # Some polls later it still waits.
    polls = len(run.asked("squeue"))
    run.wait_for(lambda: len(run.asked("squeue")) > polls + 2)
    assert run.submissions() == 1
    (run.cluster / "lingers").unlink()
    new = run.submitted(2)[1]
    run.complete(new)
    assert run.exit_code() == 0, run.output
    assert [entry["job"] for entry in run.events("cancelled")] == [old]


def test_jobs_that_a_run_could_not_write_down_are_ended_first(run: Run) -> None:
    run.set("RUNNING", "7", "8")
    stand_in_slurm.write(run.cluster / "jobs" / "9", "RUNNING another-study")
    (run.cluster / "lingers").touch()
    run.start()
    run.says("Cancelling SLURM jobs of an earlier run: 7, 8; the run that submitted them died before")
    run.wait_for(lambda: run.states()["8"] == "COMPLETING")
    polls = len(run.asked("squeue"))
    run.wait_for(lambda: len(run.asked("squeue")) > polls + 2)
    assert run.submissions() == 0
    (run.cluster / "lingers").unlink()
    run.complete(*run.submitted(2))
    assert run.exit_code() == 0, run.output
    assert run.output.count("Cancelling SLURM jobs") == 1
    assert run.states()["9"] == "RUNNING"


def test_ctrl_c_cancels_by_name_and_the_next_run_starts_again(run: Run) -> None:
    run.start()
    jobs = run.submitted(2)
    (run.cluster / "lingers").touch()
    assert run.process is not None
    run.process.send_signal(signal.SIGINT)
    assert run.exit_code() == 1
    assert ["--quiet", "--me", f"--name={NAME}"] in run.asked("scancel")
    assert set(run.states().values()) == {"COMPLETING"}
    assert sorted(entry["job"] for entry in run.events("cancelled")) == jobs
    run.start()
    run.says("Cancelling SLURM jobs of an earlier run")
    (run.cluster / "lingers").unlink()
    again = run.submitted(4)[2:]
    run.complete(*again)
    assert run.exit_code() == 0, run.output
    assert not {*jobs} & {*again}
    assert "re-attaches to SLURM job" not in run.output


def test_ctrl_c_while_slurm_is_away_says_how_to_cancel(run: Run) -> None:
    run.start()
    run.submitted(2)
    (run.cluster / "away").touch()
    assert run.process is not None
    run.process.send_signal(signal.SIGINT)
    assert run.exit_code() == 1
    assert f"later, cancel with: scancel --me --name={NAME}" in run.output


def test_a_job_that_cannot_be_submitted_for_an_unforeseen_reason_fails(run: Run) -> None:
    (run.cluster / "loses").write_text(str(run.folder / "data"))
    run.start()
    assert run.exit_code() == 1
    assert "It could not be submitted: FileNotFoundError(2, 'No such file or directory')" in run.output
    assert run.submissions() == 0


def test_what_slurm_would_refuse_is_reported_before_anything_runs(run: Run) -> None:
    (run.cluster / "refuses").write_text("allocation failure: No partition specified or system default partition")
    run.start()
    assert run.exit_code() == 1
    assert (
        "SLURM would not take the jobs of rule work: allocation failure: No partition specified or system default "
        "partition\nSet slurm_partition in the profile"
    ) in run.output
    assert run.submissions() == 0


def test_what_may_pass_is_reported_and_tried(run: Run) -> None:
    (run.cluster / "refuses").write_text("allocation failure: Requested nodes are busy")
    run.start()
    run.complete(*run.submitted(2))
    assert run.exit_code() == 0, run.output
    assert "SLURM says of the jobs of rule work: allocation failure: Requested nodes are busy" in run.output


def test_a_machine_without_slurm_differs_from_one_that_does_not_answer(run: Run) -> None:
    shutil.rmtree(run.cluster / "bin")
    (run.cluster / "bin").mkdir()
    for name in ("which", "git", "uname"):
        if found := shutil.which(name):
            (run.cluster / "bin" / name).symlink_to(found)
    path, os.environ["PATH"] = os.environ["PATH"], str(run.cluster / "bin")
    try:
        run.start()
    finally:
        os.environ["PATH"] = path
    assert run.exit_code() == 1
    assert "sbatch is not found: start the run where SLURM's commands are" in run.output
    assert "--executor local" in run.output
