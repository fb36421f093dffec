"""How the guarded executor watches jobs: its own methods, without Snakemake and SLURM."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

import snakemake_executor_plugin_slurm_guarded as guarded
from slurm_guard import queue
from slurm_guard.awaited_results import LOOKS
from slurm_guard.job_states import JobStateJudge
from slurm_guard.journal import Journal
from slurm_guard.queue import ListedJob, NoAnswerError

NAME = "usertune-test"


class Guard(guarded.Executor):
    """The executor without Snakemake: what it asks SLURM is answered by tests, what it reports they see."""

    def __init__(self, folder: Path) -> None:
        self.workflow = SimpleNamespace(
            executor_settings=guarded.ExecutorSettings(unreachable_minutes=1),
            remote_execution_settings=SimpleNamespace(seconds_between_status_checks=10),
        )
        self.run_uuid = NAME
        self.wait = True
        self.warnings: list[str] = []
        self.logger = SimpleNamespace(warning=self.warnings.append)
        self.ended: list[tuple[str, str]] = []
        self._next_seconds_between_status_checks = None
        self._judge = JobStateJudge(accounted=lambda job: None)
        self._journal = Journal(folder / "jobs.jsonl")
        self._silent_since = None
        self._stopping = False
        self._results = {}
        self.lock = threading.Lock()
        self.active_jobs: list[SubmittedJobInfo] = []
        self._failed_nodes: set[str] = set()

    def report_job_success(self, job_info: SubmittedJobInfo) -> None:
        self.ended.append((str(job_info.external_jobid), "succeeded"))

    def report_job_error(self, job_info: SubmittedJobInfo, msg: str | None = None, **more: Any) -> None:
        self.ended.append((str(job_info.external_jobid), msg or ""))

    def inspect(self, *jobs: str) -> list[str]:
        """Poll the queue once, and return the jobs that continue."""

        async def still_active() -> list[str]:
            infos = [SubmittedJobInfo(SimpleNamespace(), job) for job in jobs]
            return [str(info.external_jobid) async for info in self.check_active_jobs(infos)]

        return asyncio.run(still_active())


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard(tmp_path)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What SLURM lists: states by jobs; it does not answer while there is a job "away"."""
    states: dict[str, str] = {}

    def list_jobs(name: str) -> dict[str, ListedJob]:
        assert name == NAME
        if "away" in states:
            raise NoAnswerError("squeue: away")
        return {job: ListedJob(job, state, nodes="n3") for job, state in states.items()}

    monkeypatch.setattr(queue, "list_jobs", list_jobs)
    return states


def test_without_an_answer_all_jobs_are_kept(guard: Guard, listed: dict[str, str]) -> None:
    listed.update({"1": "RUNNING", "away": ""})
    for _ in range(5):
        assert guard.inspect("1", "2", "3") == ["1", "2", "3"]
    assert len(guard.warnings) == 5
    assert guard.ended == []
    del listed["away"]
    listed["2"] = "COMPLETED"
    assert guard.inspect("1", "2") == ["1"]
    assert guard.ended == [("2", "succeeded")]


def test_a_long_silence_ends_the_run(guard: Guard, listed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(guarded, "time", SimpleNamespace(monotonic=lambda: now, sleep=time.sleep))
    listed["away"] = ""
    guard.inspect("1")
    now += 59
    guard.inspect("1")
    # An answer in between: the silence starts again.
    del listed["away"]
    guard.inspect("1")
    listed["away"] = ""
    now += 59
    guard.inspect("1")
    now += 60
    guard.inspect("1")
    now += 1
    with pytest.raises(WorkflowError, match=r"has not answered for 1 minutes \(squeue: away\)"):
        guard.inspect("1")
    assert guard.ended == []


def test_polls_become_rarer_and_frequent_again_when_something_happens(guard: Guard, listed: dict[str, str]) -> None:
    listed.update({"1": "RUNNING", "2": "RUNNING"})
    guard.inspect()
    waits = []
    for _ in range(8):
        waits.append(guard.next_seconds_between_status_checks)
        guard.inspect("1", "2")
    assert waits == [5 * 1.5**times if 5 * 1.5**times < 30 else 30 for times in range(8)]
    listed["2"] = "FAILED"
    guard.inspect("1", "2")
    assert guard.next_seconds_between_status_checks == 5
    guard.inspect("1")
    assert guard.next_seconds_between_status_checks == 7.5
    guard.inspect()
    assert guard.next_seconds_between_status_checks == 5


def test_the_wait_ends_with_the_run(guard: Guard) -> None:
    guard.next_seconds_between_status_checks = 1000

    async def stop_while_it_sleeps() -> None:
        sleeping = asyncio.create_task(guard.sleep())
        await asyncio.sleep(0)
        guard.wait = False
        await asyncio.wait_for(sleeping, 30)

    asyncio.run(stop_while_it_sleeps())


class Clock:
    """Time that passes only while the guard sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(guarded, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(guarded, "asyncio", SimpleNamespace(sleep=self._sleep, to_thread=asyncio.to_thread))

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def of(self, guard: Guard) -> float:
        """Return how long the guard sleeps."""
        before = self.now
        asyncio.run(guard.sleep())
        return self.now - before


@pytest.mark.parametrize("before", [None, "an earlier result"])
def test_a_job_that_has_written_its_results_is_polled_soon(
    guard: Guard, listed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    clock = Clock(monkeypatch)
    first, second = files = [tmp_path / "weights", tmp_path / "manifest"]
    if before:
        for file in files:
            file.write_text(before)
            os.utime(file, (1, 1))
    monkeypatch.setattr(guarded.slurm.Executor, "report_job_submission", lambda self, info, register_job: None)
    guard._keys = {}
    job = SimpleNamespace(
        jobid=1, output=files, attempt=1, is_group=lambda: False, rule=SimpleNamespace(name="train"), wildcards_dict={}
    )
    guard.report_job_submission(SubmittedJobInfo(job, "7"))
    guard.active_jobs = [SubmittedJobInfo(job, "7")]
    guard.next_seconds_between_status_checks = 30
    assert clock.of(guard) == pytest.approx(30, abs=0.5)
    if not before:
        first.write_text("new")
        assert clock.of(guard) == pytest.approx(30, abs=0.5), "the other one is missing"
    second.write_text("new")
    polls = [clock.of(guard) for _ in range(LOOKS)]
    assert polls == pytest.approx([2] * len(polls), abs=0.5)
    assert clock.of(guard) == pytest.approx(30, abs=0.5), "SLURM takes its time; it is not asked all the time"
    listed["7"] = "COMPLETED"
    assert guard.inspect("7") == []
    assert guard._results == {}


def test_nodes_that_fail_are_not_asked_again(
    guard: Guard, listed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    cancelled: list[str] = []
    guard._judge.clock = lambda: now
    monkeypatch.setattr(queue, "cancel", cancelled.extend)
    listed["1"] = "NODE_FAIL"
    assert guard.inspect("1") == ["1"]
    now += 60
    assert guard.inspect("1") == []
    assert guard.ended == [("1", "SLURM job 1 ended as NODE_FAIL and was not requeued. ")]
    assert guard._failed_nodes == {"n3"}
    # So that it does not come back next to the next attempt.
    assert cancelled == ["1"]
    assert [entry["event"] for entry in guard._journal.read()] == ["cancelled", "ended"]


def test_a_journal_that_cannot_be_written_stops_nothing(guard: Guard, listed: dict[str, str]) -> None:
    guard._journal.path.mkdir()
    listed["1"] = "COMPLETED"
    assert guard.inspect("1") == []
    assert guard.ended == [("1", "succeeded")]
    assert "cannot be written" in guard.warnings[0]
