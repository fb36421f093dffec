"""Queries to SLURM and the parsing of its answers, with stand-ins for its commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slurm_guard import queue
from slurm_guard.queue import ListedJob, NoAnswerError

Program = Callable[[str, str], None]
# As SLURM 22.05 lists jobs with --format of `queue.LISTING`.
RUNNING = "20|RUNNING|None|n0|2026-11-25T10:43:33|2026-11-25T10:43:34|2027-11-25T10:43:34|rule_train_wildcards_lora"
PENDING = "19|PENDING|PartitionTimeLimit||2026-11-25T10:43:33|N/A|N/A|(null)"


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Return a function that puts a shell program on PATH; those of a SLURM that may be installed are not found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cat", "sleep"):
        (folder / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, text: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)

    return write


@pytest.fixture
def lists(program: Program, tmp_path: Path) -> Callable[[bytes], None]:
    """Return a function that sets the answer of squeue to the one query."""

    def write(listing: bytes) -> None:
        (tmp_path / "listing").write_bytes(listing)
        question = f"--me --name=usertune-x --states=all --noheader --format={queue.LISTING}"
        program("squeue", f'[ "$*" = "{question}" ] && cat {tmp_path}/listing')

    return write


def test_a_running_job_and_one_that_waits(lists: Callable[[bytes], None]) -> None:
    lists(f"{RUNNING}\n{PENDING}\n".encode())
    assert queue.list_jobs("usertune-x") == {
        "20": ListedJob(
            "20", "RUNNING", "None", "n0", "2026-11-25T10:43:33", "2026-11-25T10:43:34", "2027-11-25T10:43:34",
            "rule_train_wildcards_lora",
        ),
        "19": ListedJob("19", "PENDING", "PartitionTimeLimit", "", "2026-11-25T10:43:33", None, None, "(null)"),
    }  # fmt: skip


@pytest.mark.parametrize("comment", ["a|b", "|", "||||||||||", "ü", "a\tb", "a\x0bb\u2028c"])
def test_a_comment_may_hold_anything(lists: Callable[[bytes], None], comment: str) -> None:
    lists(f"7|RUNNING|None|n0|N/A|N/A|N/A|{comment}\n{PENDING}\n".encode())
    jobs = queue.list_jobs("usertune-x")
    assert jobs["7"].comment == comment
    assert set(jobs) == {"7", "19"}


@pytest.mark.parametrize("time", ["N/A", "NONE", "Unknown", "(null)", ""])
def test_times_that_are_not_known(lists: Callable[[bytes], None], time: str) -> None:
    lists(f"7|PENDING|None||{time}|{time}|{time}|\n".encode())
    job = queue.list_jobs("usertune-x")["7"]
    assert (job.submitted_at, job.started_at, job.ended_at) == (None, None, None)


@pytest.mark.parametrize("listing", [b"", b"\n", b"\n \n", b"7|RUNNING\n", b"7|RUNNING|None|n0|N/A|N/A|N/A\n"])
def test_nothing_is_made_of_empty_and_short_lines(lists: Callable[[bytes], None], listing: bytes) -> None:
    lists(listing)
    assert queue.list_jobs("usertune-x") == {}
    lists(listing + RUNNING.encode())
    assert set(queue.list_jobs("usertune-x")) == {"20"}


def test_bytes_that_are_no_text(lists: Callable[[bytes], None]) -> None:
    lists(b"7|FAILED|NonZeroExitCode|n0|N/A|N/A|N/A|\xff\xfe\n" + RUNNING.encode())
    jobs = queue.list_jobs("usertune-x")
    assert jobs["7"].comment == "\ufffd\ufffd"
    assert jobs["7"].ended
    assert not jobs["20"].ended


FIELDS = st.text(st.characters(exclude_characters="|\r\n", exclude_categories=["Cs"])).map(str.strip)
TIMES = st.none() | st.datetimes().map(lambda time: time.isoformat(timespec="seconds"))
JOBS = st.builds(
    ListedJob, id=st.integers(1, 10**9).map(str), state=FIELDS, reason=FIELDS, nodes=FIELDS, submitted_at=TIMES,
    started_at=TIMES, ended_at=TIMES, comment=st.text(st.characters(exclude_characters="\r\n")).map(str.strip),
)  # fmt: skip


def _row(job: ListedJob) -> str:
    times = (time or "N/A" for time in (job.submitted_at, job.started_at, job.ended_at))
    return "|".join((job.id, job.state, job.reason, job.nodes, *times, job.comment))


@settings(deadline=None)
@given(st.lists(JOBS, unique_by=lambda job: job.id))
def test_jobs_are_read_as_they_are_listed(jobs: list[ListedJob]) -> None:
    with mock.patch.object(queue, "run", return_value="".join(f"{_row(job)}\n" for job in jobs)):
        assert list(queue.list_jobs("usertune-x").values()) == jobs


@settings(deadline=None)
@given(st.text() | st.lists(st.sampled_from([*"|\n\r 7", RUNNING, "N/A", "\x85", "\x00"])).map("".join))
@example("|||||||")
def test_no_listing_is_an_error(listing: str) -> None:
    with mock.patch.object(queue, "run", return_value=listing):
        for job, listed in queue.list_jobs("usertune-x").items():
            assert listed.id == job


@settings(deadline=None, max_examples=20)
@given(st.binary(), st.integers(0, 255))
def test_whatever_a_command_prints_there_is_an_answer_or_none(
    tmp_path_factory: pytest.TempPathFactory, printed: bytes, code: int
) -> None:
    folder = tmp_path_factory.mktemp("printed")
    (folder / "printed").write_bytes(printed)
    program = folder / "squeue"
    program.write_text(f"#!/bin/sh\n/bin/cat {folder}/printed\n/bin/cat {folder}/printed >&2\nexit {code}\n")
    program.chmod(0o755)
    with mock.patch.dict(os.environ, {"PATH": str(folder)}):
        try:
            queue.list_jobs("usertune-x")
        except NoAnswerError as error:
            assert code != 0
            assert str(error).startswith("squeue: ")
        else:
            assert code == 0


ASK = {
    "squeue": lambda: queue.list_jobs("usertune-x"),
    "scancel": lambda: queue.cancel(["7"]),
    "scancel --me": lambda: queue.cancel_all("usertune-x"),
}


@pytest.mark.parametrize("ask", ASK)
def test_no_answer_where_the_controller_is_away(program: Program, ask: str) -> None:
    program(ask.split()[0], 'echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1')
    with pytest.raises(NoAnswerError, match=r"^s\w+: slurm_load_jobs error: Unable to contact slurm controller$"):
        ASK[ask]()


@pytest.mark.parametrize("ask", ASK)
def test_no_answer_where_the_command_fails_without_a_word(program: Program, ask: str) -> None:
    program(ask.split()[0], "exit 3")
    with pytest.raises(NoAnswerError, match=r"^s\w+: exit code 3$"):
        ASK[ask]()


@pytest.mark.parametrize("ask", ASK)
def test_no_answer_where_it_takes_too_long(program: Program, monkeypatch: pytest.MonkeyPatch, ask: str) -> None:
    monkeypatch.setattr(queue, "TIMEOUT_SECONDS", 0.2)
    # As a program that times out: a child of it must not keep the pipe open.
    program(ask.split()[0], "exec sleep 100")
    with pytest.raises(NoAnswerError, match="no answer within 0 s"):
        ASK[ask]()


@pytest.mark.parametrize("ask", ASK)
def test_no_answer_where_the_command_is_missing(ask: str) -> None:
    with pytest.raises(NoAnswerError, match="No such file or directory"):
        ASK[ask]()


@pytest.mark.parametrize(
    ("said", "code", "expected"),
    [
        ("Slurmctld(primary) at login1 is UP", 0, True),
        ("Slurmctld(primary) at login1 is DOWN", 0, False),
        ("Slurmctld(primary) at UPSALA is DOWN", 0, False),
        ("Slurmctld(primary) at login1 is DOWN\nSlurmctld(backup) at login2 is UP", 0, True),
        ("Slurmctld(primary) at login1 is UP", 1, False),
        ("", 0, False),
    ],
)
def test_whether_the_controller_answers(program: Program, said: str, code: int, expected: bool) -> None:
    program("scontrol", f'[ "$*" = ping ] || exit 9\ncat <<END\n{said}\nEND\nexit {code}')
    assert queue.answers() is expected


def test_no_controller_answers_where_there_is_no_slurm() -> None:
    assert queue.answers() is False


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("COMPLETED\n", "COMPLETED"),
        ("CANCELLED by 0\n", "CANCELLED"),
        ("CANCELLED by 1000\n", "CANCELLED"),
        ("TIMEOUT\n", "TIMEOUT"),
        # Attempts of a job that was requeued: the last counts.
        ("NODE_FAIL\nCOMPLETED\n", "COMPLETED"),
        ("COMPLETED\nFAILED\n", "FAILED"),
        ("PREEMPTED\nRUNNING\n", None),
        ("RUNNING\n", None),
        ("PENDING\n", None),
        ("", None),
        ("\n\n", None),
        ("\ufffd\n", None),
    ],
)
def test_how_a_job_ended_by_the_accounting(program: Program, said: str, state: str | None) -> None:
    question = "-X --noheader --parsable2 --format=State --jobs=7"
    program("sacct", f'[ "$*" = "{question}" ] || exit 9\ncat <<END\n{said}END')
    assert queue.accounted_state("7") == state


def test_no_accounting(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    assert queue.accounted_state("7") is None
    program("sacct", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
    assert queue.accounted_state("7") is None
    monkeypatch.setattr(queue, "TIMEOUT_SECONDS", 0.2)
    program("sacct", "exec sleep 100")
    assert queue.accounted_state("7") is None


def test_jobs_are_cancelled_by_number_or_by_name(program: Program, tmp_path: Path) -> None:
    program("scancel", f'echo "$*" >> {tmp_path}/asked')
    queue.cancel([])
    queue.cancel(["7", "8"])
    queue.cancel_all("usertune-x")
    assert (tmp_path / "asked").read_text() == "--quiet 7 8\n--quiet --me --name=usertune-x\n"
