"""Starts the processes of one training with torchrun, on this node or on all nodes of a SLURM job.

The processes communicate through files in a subfolder of the training's working folder, which all nodes see: the task,
a stop request, and a report from each process. Does not import torch.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from usertune.core.errors import FinalError, LackOfMemoryError, StopRequested, UserError
from usertune.core.files import read_json, write_json, write_text
from usertune.runtime.cpu_threads import threads_of_each
from usertune.runtime.launchers import no_launcher
from usertune.runtime.signals import DeferredSignal, end_with_parent
from usertune.training.processes import Processes

logger = logging.getLogger(__name__)

EXCHANGE = "processes-"
TASK, STOP_REQUEST = "task.json", "stop"


def train_together(task: Mapping[str, Any], processes: Processes, work: Path) -> dict[str, Any]:
    """Train with several processes and wait for them.

    After the first stop signal to this process, all of them save a working checkpoint after the current step and stop;
    a second signal ends them at once. They also end if this process dies.

    Args:
        task: the task of `usertune.training.distributed.training_process`, as JSON.
        processes: how many processes, on how many nodes.
        work: working folder of the training.

    Returns:
        The measurements of rank 0.

    Raises:
        StopRequested: a stop signal came.
        LackOfMemoryError: a process ran out of memory, or was killed, which may have the same cause.
        FinalError: another attempt would fail in the same way.
        UserError: a process failed for another reason that the user can fix.
        OSError: a process could not write.
        RuntimeError: a process failed with another error.
    """
    for left in work.glob(f"{EXCHANGE}*"):
        shutil.rmtree(left, ignore_errors=True)
    exchange = work / f"{EXCHANGE}{secrets.token_hex(4)}"
    exchange.mkdir()
    write_json(exchange / TASK, {**task, "processes": asdict(processes), "master_port": _free_port()})
    logger.info(
        "starting %d processes on %d node%s (%s)",
        processes.world_size, processes.nodes, "s" * (processes.nodes > 1), processes.strategy,
    )  # fmt: skip
    stop = DeferredSignal(lambda number: _request_stop(exchange, number))
    try:
        with stop, no_launcher():
            exit_code = _run(_command(exchange / TASK, processes), processes)
        return _outcome(exchange, processes, exit_code, stop.signal)
    finally:
        shutil.rmtree(exchange, ignore_errors=True)


def _command(task_file: Path, processes: Processes) -> list[str]:
    on_a_node = [sys.executable, "-m", "usertune.training.distributed.node_agent", str(task_file)]
    if processes.nodes == 1:
        return on_a_node
    if "SLURM_JOB_ID" not in os.environ:
        raise UserError(
            f"nodes: {processes.nodes} needs a SLURM job, and this is not one; run snakemake with the "
            "cluster's profile, or set nodes: 1 for this experiment"
        )
    return [
        "srun",
        f"--nodes={processes.nodes}",
        f"--ntasks={processes.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={processes.threads}",
        "--mem=0",
        # If a process fails on one node, end the others.
        "--kill-on-bad-exit=1",
        *on_a_node,
    ]


def _run(command: list[str], processes: Processes) -> int:
    """Run the command, log its output, and return its exit code."""
    # A session of its own, so that Ctrl-C at the terminal reaches only this process, which then requests a stop.
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **threads_of_each(processes.threads, processes.nproc_per_node)},
        start_new_session=True,
        preexec_fn=end_with_parent,
    ) as started:
        relay = threading.Thread(target=_relay, args=(started,), daemon=True)
        relay.start()
        try:
            return started.wait()
        except BaseException:
            os.killpg(started.pid, signal.SIGKILL)
            raise
        finally:
            started.wait()
            relay.join()


def _relay(started: subprocess.Popen[str]) -> None:
    assert started.stdout is not None
    for line in started.stdout:
        logger.info("%s", line.rstrip())


def _request_stop(exchange: Path, number: int) -> None:
    logger.info("%s: the processes save a checkpoint after this step, then stop", signal.Signals(number).name)
    write_text(exchange / STOP_REQUEST, str(number))


def _outcome(exchange: Path, processes: Processes, exit_code: int, own_signal: int | None) -> dict[str, Any]:
    """Return the measurements of rank 0, or raise the error that ended the training."""
    reports = {
        rank: read_json(path) for rank in range(processes.world_size) if (path := report_file(exchange, rank)).exists()
    }
    kinds = {kind: [rank for rank in reports if reports[rank]["kind"] == kind] for kind in REPORTS}
    for rank in kinds["lack_of_memory"]:
        raise LackOfMemoryError(reports[rank]["message"])
    for rank in kinds["final"]:
        raise FinalError(reports[rank]["message"])
    for rank in kinds["user_error"]:
        raise UserError(reports[rank]["message"])
    for rank in kinds["disk"]:
        raise OSError(reports[rank]["number"], reports[rank]["message"], reports[rank]["file"])
    if exit_code == 0 and kinds["stopped"]:
        raise StopRequested(own_signal or reports[kinds["stopped"][0]]["signal"])
    # Whatever the exit code: a process can still fail during teardown, after everything is saved.
    if len(kinds["done"]) == processes.world_size:
        measured: dict[str, Any] = reports[0]["measured"]
        return measured
    _raise_failure(exchange, processes, exit_code, reports)


def _raise_failure(exchange: Path, processes: Processes, exit_code: int, reports: Mapping[int, Any]) -> NoReturn:
    again = "the same command continues from the last working checkpoint"
    for path in sorted(exchange.glob("node-*.json")):
        for failed in read_json(path)["failed"]:
            rank = failed["rank"]
            if rank not in reports and failed["exit_code"] < 0:
                name = signal.Signals(-failed["exit_code"]).name
                memory = ", perhaps for lack of memory" if name == "SIGKILL" else ""
                kind = LackOfMemoryError if memory else UserError
                raise kind(
                    f"process {rank} of {processes.world_size} (on {failed['host']}) was ended by {name}{memory} "
                    f"(exit code {failed['exit_code']}), so the others were ended too; {again}"
                )
    for rank, report in reports.items():
        if report["kind"] == "failed":
            raise RuntimeError(f"process {rank} of {processes.world_size} failed:\n{report['message']}")
    raise UserError(
        f"the {processes.world_size} processes ended with exit code {exit_code}, and none reported a cause; "
        f"their messages are in the log of this job; {again}"
    )


# Outcomes a process can report.
REPORTS = ("done", "stopped", "lack_of_memory", "final", "user_error", "disk", "failed")


def report_file(exchange: Path, rank: int) -> Path:
    """Return the report file of a process."""
    return exchange / f"rank-{rank}.json"


def node_file(exchange: Path, node: int) -> Path:
    """Return the file in which a node agent lists its failed processes."""
    return exchange / f"node-{node}.json"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
