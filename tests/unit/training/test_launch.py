"""What the program makes of the reports that its processes leave."""

from __future__ import annotations

import errno
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from usertune.core.errors import LackOfMemoryError, StopRequested, UserError
from usertune.core.files import write_json
from usertune.runtime.cpu_threads import COUNTS
from usertune.training.distributed import launch
from usertune.training.distributed.collectives import check_parallel
from usertune.training.distributed.launch import node_file, report_file
from usertune.training.processes import Processes

THREE = Processes(nproc_per_node=3)


def _outcome(exchange: Path, exit_code: int, *reports: dict[str, Any] | None, own: int | None = None) -> dict[str, Any]:
    for rank, report in enumerate(reports):
        if report:
            write_json(report_file(exchange, rank), report)
    return launch._outcome(exchange, THREE, exit_code, own)


DONE = {"kind": "done", "measured": {"steps": 3}}
FAILED = {"kind": "failed", "message": "Traceback ...\nRuntimeError: connection closed by peer"}
STOPPED = {"kind": "stopped", "signal": int(signal.SIGTERM)}


@pytest.mark.parametrize("exit_code", [0, -6])
def test_once_all_are_done_the_first_says_what_was_measured(tmp_path: Path, exit_code: int) -> None:
    assert _outcome(tmp_path, exit_code, DONE, {**DONE, "measured": {}}, {**DONE, "measured": {}}) == {"steps": 3}


def test_what_a_person_can_mend_counts_more_than_what_came_of_it(tmp_path: Path) -> None:
    memory = {"kind": "lack_of_memory", "message": "out of memory with training.micro_batch_size 4"}
    with pytest.raises(LackOfMemoryError, match=r"^out of memory with training\.micro_batch_size 4$"):
        _outcome(tmp_path, 1, FAILED, memory, None)


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    full = {"kind": "disk", "number": errno.ENOSPC, "message": "No space left on device", "file": "results/weights"}
    with pytest.raises(OSError, match="No space left on device: 'results/weights'") as raised:
        _outcome(tmp_path, 1, full, None, FAILED)
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize(("own", "expected"), [(None, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)])
def test_a_stop_has_the_signal_of_this_process_or_else_theirs(tmp_path: Path, own: int | None, expected: int) -> None:
    with pytest.raises(StopRequested) as stopped:
        _outcome(tmp_path, 0, STOPPED, STOPPED, STOPPED, own=own)
    assert stopped.value.signal == expected


def test_of_a_killed_process_and_those_that_failed_for_it_the_killed_one_is_named(tmp_path: Path) -> None:
    failed = [
        {"rank": 0, "exit_code": 1, "host": "n0"},
        {"rank": 2, "exit_code": -9, "host": "n0"},
    ]
    write_json(node_file(tmp_path, 0), {"failed": failed})
    with pytest.raises(LackOfMemoryError, match=r"^process 2 of 3 \(on n0\) was ended by SIGKILL, perhaps for lack"):
        _outcome(tmp_path, 1, FAILED, None, None)


def test_another_failure_is_shown_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"process 1 of 3 failed:\nTraceback ...\nRuntimeError: connection closed"):
        _outcome(tmp_path, 1, None, FAILED, None)


@pytest.mark.parametrize("exit_code", [0, 1])
def test_processes_that_say_nothing_are_no_success(tmp_path: Path, exit_code: int) -> None:
    with pytest.raises(UserError, match=f"the 3 processes ended with exit code {exit_code}, and none reported a cause"):
        _outcome(tmp_path, exit_code, DONE, DONE, None)


@pytest.mark.parametrize(
    ("processes", "threads", "given", "expected"),
    # Snakemake sets the fourth for a job of 8 threads.
    [(1, 8, None, "8"), (4, 8, None, "2"), (4, 2, None, "1"), (4, 8, "8", "2"), (4, 8, "1", "1"), (4, 8, "?", "2")],
)
def test_processes_share_the_threads_of_a_node(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, processes: int, threads: int, given: str | None,
    expected: str,
) -> None:  # fmt: skip
    for name in COUNTS:
        monkeypatch.delenv(name, raising=False)
        if given:
            monkeypatch.setenv(name, given)
    command = ["sh", "-c", "echo $OMP_NUM_THREADS $MKL_NUM_THREADS; exit 3"]
    with caplog.at_level("INFO", logger="usertune"):
        assert launch._run(command, Processes(processes, threads=threads)) == 3
    assert caplog.messages == [f"{expected} {expected}"]


def _trainer(processes: int, gpus_of_one: int = 0, ddp: bool = False) -> Any:
    model = torch.nn.Linear(2, 2)
    if ddp:
        model = torch.nn.parallel.DistributedDataParallel.__new__(torch.nn.parallel.DistributedDataParallel)
    return SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=processes),
        model_wrapped=model,
        args=SimpleNamespace(n_gpu=gpus_of_one),
    )


def test_a_set_up_as_asked_passes() -> None:
    check_parallel(_trainer(1), Processes())
    check_parallel(_trainer(1, gpus_of_one=1), Processes())
    check_parallel(_trainer(4, ddp=True), Processes(2, 2))


@pytest.mark.parametrize(
    ("trainer", "processes", "found"),
    [
        (_trainer(1), Processes(2), "should run as 2 processes with ddp, but was set up as one process;"),
        (_trainer(1, gpus_of_one=4), Processes(), "as one process, but was set up as one process on 4 GPUs;"),
        (_trainer(2, ddp=True), Processes(2, 2), "as 4 processes with ddp, but was set up as 2 processes with ddp;"),
        (_trainer(2), Processes(2), r"but was set up as 2 processes with no known strategy \(Linear, 0 of 2 weights"),
        (_trainer(2), Processes(2, strategy="fsdp"), "set parallel: ddp for this experiment"),
    ],
)
def test_another_set_up_is_refused(trainer: Any, processes: Processes, found: str) -> None:
    with pytest.raises(UserError, match=found):
        check_parallel(trainer, processes)
