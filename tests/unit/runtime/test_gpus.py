"""Sharing GPUs between processes, with a stand-in for nvidia-smi that lists three of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from usertune.core.errors import UserError
from usertune.runtime import gpus

GPUS = ["GPU-aaaa", "GPU-bbbb", "GPU-cccc"]
CHOICE = "CUDA_VISIBLE_DEVICES"

# Takes [count, folder], prints the GPUs that it got, and keeps them until its standard input is closed.
HOLDER = """
import json, os, sys
from pathlib import Path
from usertune.runtime import gpus
count, folder = json.loads(sys.argv[1])
gpus.FIRST_WAIT_SECONDS = 0.05
with gpus.lease(count, Path(folder)) as taken:
    print(json.dumps([taken, os.environ["CUDA_VISIBLE_DEVICES"]]), flush=True)
    sys.stdin.read()
"""

# Takes [folder, count, rounds]: takes GPUs repeatedly, and marks each with a file that must not exist before.
CONTENDER = """
import json, sys, time
from pathlib import Path
from usertune.runtime import gpus
folder, count, rounds = json.loads(sys.argv[1])
gpus.FIRST_WAIT_SECONDS = gpus.LONGEST_WAIT_SECONDS = 0.02
for _ in range(rounds):
    with gpus.lease(count, Path(folder)) as taken:
        assert len(set(taken)) == count
        for name in taken:
            Path(folder, name + ".used").touch(exist_ok=False)
        time.sleep(0.005)
        for name in taken:
            Path(folder, name + ".used").unlink()
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def three_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program nvidia-smi on PATH that answers the one query with three GPUs."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    listing = "\\n".join(GPUS)
    program.write_text(f'#!/bin/sh\n[ "$*" = "--query-gpu=uuid --format=csv,noheader" ] && printf "{listing}\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.delenv(CHOICE, raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(gpus, "FIRST_WAIT_SECONDS", 0.05)


@pytest.fixture
def hold(tmp_path: Path, run_python: Start) -> Iterator[Callable[[int], tuple[subprocess.Popen[str], list[str]]]]:
    """Return a function that starts a process that takes GPUs and returns their numbers."""
    started = []

    def start(count: int) -> tuple[subprocess.Popen[str], list[str]]:
        holder = run_python(HOLDER, [count, tmp_path / "locks"])
        started.append(holder)
        assert holder.stdout is not None
        taken, visible = json.loads(holder.stdout.readline())
        assert visible == ",".join(taken)
        return holder, taken

    yield start
    for holder in started:
        holder.kill()
        holder.communicate()


def _is_free(name: str, folder: Path) -> bool:
    """Whether the GPU can be taken at once."""
    lock = gpus.FileLock(folder / f"{name}.lock")
    try:
        with lock.acquire(timeout=0):
            return True
    except gpus.Timeout:
        return False


def test_gpus_are_listed_by_uuid() -> None:
    assert gpus.visible_gpus() == GPUS


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("", []),
        ("-1", []),
        ("2", ["2"]),
        ("2,0", ["2", "0"]),
        (" GPU-b , GPU-a ", ["GPU-b", "GPU-a"]),
        ("1,-1,2", ["1"]),
    ],
)
def test_a_choice_in_the_environment_is_respected(
    monkeypatch: pytest.MonkeyPatch, choice: str, expected: list[str]
) -> None:
    monkeypatch.setenv(CHOICE, choice)
    assert gpus.visible_gpus() == expected


def test_leases_are_taken_from_the_chosen_gpus_only(
    monkeypatch: pytest.MonkeyPatch, hold: Callable[[int], tuple[object, list[str]]]
) -> None:
    monkeypatch.setenv(CHOICE, "GPU-cccc,GPU-aaaa")
    assert [hold(1)[1], hold(1)[1]] == [["GPU-cccc"], ["GPU-aaaa"]]


@pytest.mark.parametrize("choice", ["", "-1"])
def test_no_gpu_can_be_leased_where_the_environment_hides_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    monkeypatch.setenv(CHOICE, choice)
    with pytest.raises(UserError, match="1 GPUs are needed, but this machine offers 0"), gpus.lease(1, tmp_path):
        pass
    assert os.environ[CHOICE] == choice


@pytest.mark.parametrize("listing", ["exit 9", "exit 0", ""])
def test_a_machine_without_a_working_driver_has_no_gpus(tmp_path: Path, listing: str) -> None:
    (tmp_path / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\n{listing}\n")
    assert gpus.visible_gpus() == []


def test_a_machine_without_nvidia_smi_has_no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible_gpus() == []


def test_too_many_gpus_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="4 GPUs are needed, but this machine offers 3"), gpus.lease(4, tmp_path):
        pass
    assert CHOICE not in os.environ
    assert all(_is_free(name, tmp_path) for name in GPUS)


@pytest.mark.parametrize("before", [None, "", "GPU-bbbb,GPU-cccc"])
@pytest.mark.parametrize("count", [0, 1])
def test_the_environment_is_restored_also_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None, count: int
) -> None:
    if before is not None:
        monkeypatch.setenv(CHOICE, before)
    count = 0 if before == "" else count
    with pytest.raises(RuntimeError, match="boom"), gpus.lease(count, tmp_path) as taken:
        assert os.environ[CHOICE] == ",".join(taken)
        assert len(taken) == count
        raise RuntimeError("boom")
    assert os.environ.get(CHOICE) == before
    assert all(_is_free(name, tmp_path) for name in GPUS)


def test_no_gpus_means_that_they_are_hidden(tmp_path: Path) -> None:
    with gpus.lease(0, tmp_path) as taken:
        assert taken == []
        assert os.environ[CHOICE] == ""
    assert CHOICE not in os.environ


def test_slurm_shares_the_gpus_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    monkeypatch.setenv(CHOICE, "1")
    with gpus.lease(1, tmp_path / "locks") as first, gpus.lease(1, tmp_path / "locks") as second:
        assert first == second == ["node7:1"]
        assert os.environ[CHOICE] == "1"
    assert not (tmp_path / "locks").exists()


def test_gpus_under_slurm_are_told_apart_also_where_each_job_counts_its_own_from_0(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    monkeypatch.setenv(CHOICE, "0,1")
    monkeypatch.setenv("SLURM_JOB_GPUS", "2,3,4")
    assert gpus.given_by_slurm() == ["node7:2", "node7:3", "node7:4"]
    monkeypatch.setenv("SLURM_STEP_GPUS", "2,3")
    assert gpus.given_by_slurm() == ["node7:2", "node7:3"]


def test_a_slurm_job_without_gpus_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(CHOICE, "")
    assert gpus.given_by_slurm() == []


def test_processes_that_run_at_once_get_different_gpus(hold: Callable[[int], tuple[object, list[str]]]) -> None:
    taken = [hold(1)[1], hold(1)[1], hold(1)[1]]
    assert Counter(name for names in taken for name in names) == Counter(GPUS)


def test_a_lease_of_two_waits_for_both_and_keeps_none_meanwhile(
    tmp_path: Path, hold: Callable[[int], tuple[subprocess.Popen[str], list[str]]], run_python: Start
) -> None:
    first, taken = hold(2)
    waiting = run_python(HOLDER, [2, tmp_path / "locks"])
    assert waiting.stdout is not None
    (rest,) = set(GPUS) - set(taken)
    # The one free GPU is there for a job that needs only one, although another waits for two.
    _, third = hold(1)
    assert third == [rest]
    os.set_blocking(waiting.stdout.fileno(), False)
    assert not waiting.stdout.readline()
    os.set_blocking(waiting.stdout.fileno(), True)
    first.communicate("")
    got, _ = json.loads(waiting.stdout.readline())
    assert set(got) == set(taken)
    waiting.communicate("", timeout=30)
    assert waiting.returncode == 0


def test_killing_the_holder_frees_its_gpus(
    tmp_path: Path, hold: Callable[[int], tuple[subprocess.Popen[str], list[str]]]
) -> None:
    holder, taken = hold(3)
    assert taken == GPUS
    assert not any(_is_free(name, tmp_path / "locks") for name in GPUS)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with gpus.lease(3, tmp_path / "locks") as again:
        assert again == GPUS


def test_many_processes_never_share_a_gpu_and_none_starves(tmp_path: Path, run_python: Start) -> None:
    contenders = [run_python(CONTENDER, [tmp_path / "locks", count, 5]) for count in (1, 2, 2, 3, 1)]
    for contender in contenders:
        _, error = contender.communicate(timeout=60)
        assert contender.returncode == 0, error


def test_jobs_with_another_folder_for_temporary_files_see_the_same_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = gpus._lock_folder()
    monkeypatch.setattr(gpus.tempfile, "tempdir", str(tmp_path))
    assert gpus._lock_folder() == usual
    monkeypatch.setattr(gpus.os, "access", lambda path, mode: False)
    assert gpus._lock_folder().parent == tmp_path
