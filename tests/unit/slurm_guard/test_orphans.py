"""Which jobs of an earlier run there still are, and what may be done with each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slurm_guard.journal import Journal
from slurm_guard.orphans import Identity, Orphan, Orphans
from slurm_guard.queue import ENDED, ListedJob

LORA: Identity = ("train", (("experiment", "lora"),))
PREDICT: Identity = ("predict", (("batch", "1-2"), ("experiment", "lora")))


class Study:
    """A journal, and what SLURM lists."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / "jobs.jsonl")
        self.listed: dict[str, ListedJob] = {}

    def submitted(self, job: str, identity: Identity = LORA, state: str = "RUNNING", event: str = "submitted") -> None:
        rule, wildcards = identity
        # The order of the wildcards is of no account.
        named = dict(reversed(wildcards))
        self.journal.append(event, job, key=f"key {job}", rule=rule, wildcards=named, attempt=1, log=f"{job}.log")
        self.lists(job, state)

    def lists(self, job: str, state: str = "RUNNING") -> None:
        self.listed[job] = ListedJob(job, state)

    def orphans(self) -> Orphans:
        return Orphans(self.listed, self.journal)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def ids(orphans: Orphans, identity: Identity = LORA) -> list[str]:
    return [orphan.id for orphan in orphans.take(identity)]


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED"])
@pytest.mark.parametrize("event", ["submitted", "adopted"])
def test_jobs_that_go_on_are_taken_by_what_they_do(study: Study, state: str, event: str) -> None:
    study.submitted("7", LORA, state, event)
    study.submitted("8", PREDICT, state, event)
    orphans = study.orphans()
    assert orphans.take(("train", (("experiment", "full"),))) == []
    assert orphans.take(("predict", LORA[1])) == []
    assert orphans.take(LORA) == [Orphan("7", "key 7", "7.log", adoptable=True)]
    assert orphans.take(PREDICT) == [Orphan("8", "key 8", "8.log", adoptable=True)]


def test_each_is_taken_once(study: Study) -> None:
    study.submitted("7")
    orphans = study.orphans()
    assert ids(orphans) == ["7"]
    assert ids(orphans) == []


def test_each_is_taken_once_by_threads_too(study: Study) -> None:
    identities: list[Identity] = [("train", (("experiment", str(number)),)) for number in range(50)]
    for number, identity in enumerate(identities):
        study.submitted(str(number), identity)
    orphans = study.orphans()
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(orphans.take, identities * 4))
    assert sorted(int(orphan.id) for found in taken for orphan in found) == list(range(50))


def test_jobs_that_completed_while_no_run_was_active_count(study: Study) -> None:
    study.submitted("7", state="COMPLETED")
    assert study.orphans().take(LORA) == [Orphan("7", "key 7", "7.log", adoptable=True)]


@pytest.mark.parametrize("state", sorted(ENDED - {"COMPLETED", "NODE_FAIL", "PREEMPTED"}))
def test_jobs_that_failed_while_no_run_was_active_run_again(study: Study, state: str) -> None:
    study.submitted("7", state=state)
    study.lists("8", state)
    orphans = study.orphans()
    assert ids(orphans) == []
    assert orphans.unknown == []
    assert orphans.describe("usertune-x") is None


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED"])
def test_jobs_that_slurm_may_bring_back_are_not_over(study: Study, state: str) -> None:
    study.submitted("7", state=state)
    study.lists("8", state)
    orphans = study.orphans()
    assert ids(orphans) == ["7"]
    assert orphans.unknown == ["8"]


@pytest.mark.parametrize("state", ["COMPLETED", "COMPLETING", "RUNNING"])
def test_jobs_that_were_seen_ending_are_done_with(study: Study, state: str) -> None:
    study.submitted("7", state=state)
    study.journal.append("ended", "7", state="COMPLETED")
    orphans = study.orphans()
    assert ids(orphans) == []
    assert orphans.unknown == []


def test_the_end_of_a_job_that_was_cancelled_is_ignored(study: Study) -> None:
    study.submitted("7", state="COMPLETING")
    study.journal.append("cancelled", "7", message="the run was ended")
    assert [orphan.adoptable for orphan in study.orphans().take(LORA)] == [False]
    study.lists("7", "COMPLETED")
    assert study.orphans().take(LORA) == []


def test_jobs_that_are_not_listed_any_more_are_gone(study: Study) -> None:
    study.submitted("7")
    study.listed.clear()
    assert ids(study.orphans()) == []


def test_several_that_do_the_same_come_together_the_newest_first(study: Study) -> None:
    for job in ("100", "9", "99"):
        study.submitted(job)
    study.submitted("50", PREDICT)
    orphans = study.orphans()
    # SLURM lists by priority; text has another order.
    assert ids(orphans) == ["100", "99", "9"]
    assert ids(orphans, PREDICT) == ["50"]


def test_jobs_that_are_not_in_the_journal_are_unknown(study: Study) -> None:
    study.submitted("7")
    for job, state in (("8", "RUNNING"), ("9_[1-3]", "PENDING"), ("10", "COMPLETED"), ("11", "FAILED")):
        study.lists(job, state)
    orphans = study.orphans()
    assert orphans.unknown == ["8", "9_[1-3]"]
    assert ids(orphans) == ["7"]


def test_what_a_group_of_jobs_does_is_unknown(study: Study) -> None:
    study.journal.append("submitted", "7", key="", rule="group", wildcards={}, attempt=1, log="")
    study.lists("7")
    assert study.orphans().unknown == ["7"]


def test_nothing_was_left_behind(study: Study) -> None:
    orphans = study.orphans()
    assert (ids(orphans), orphans.unknown, orphans.describe("usertune-x")) == ([], [], None)


def test_people_are_told_which_there_are_and_how_to_end_them(study: Study) -> None:
    for job in ("10", "9", "11_4"):
        study.submitted(job)
    study.submitted("8", state="COMPLETED")
    assert study.orphans().describe("usertune-x") == (
        "SLURM jobs of an earlier run: 9, 10, 11_4. This run re-attaches to those that it needs unchanged. "
        "To end them all instead: scancel --me --name=usertune-x"
    )
