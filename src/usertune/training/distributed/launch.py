"""Starting the processes of one training with torchrun, on this node or on all nodes of a SLURM job.

The processes and this one speak by files in a folder of the training's working folder, which all nodes see: the task,
a request to stop, and what became of each process. Knows nothing of torch.
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

    The first stop signal to this process asks all of them to stop after the step they are at, with a working
    checkpoint; a second one ends them at once. They end too if this process dies.

    Args:
        task: what `usertune.training.distributed.training_process` needs to train, as JSON.
        processes: how many, where.
        work: working folder of the training.

    Returns:
        What the first process measured.

    Raises:
        StopRequested: a stop signal came.
        LackOfMemoryError: in a process, or one was killed, perhaps therefore.
        FinalError: another attempt would end in the same way.
        UserError: something else that the person can mend went wrong in a process.
        OSError: a process could not write.
        RuntimeError: a process failed otherwise.
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
            f"nodes: {processes.nodes} needs a SLURM job, and this is none; run snakemake with the cluster's "
            "profile, or set nodes: 1 for this experiment"
        )
    return [
        "srun",
        f"--nodes={processes.nodes}",
        f"--ntasks={processes.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={processes.threads}",
        "--mem=0",
        # A node whose processes failed ends the others.
        "--kill-on-bad-exit=1",
        *on_a_node,
    ]


def _run(command: list[str], processes: Processes) -> int:
    """Run the command, pass on what it writes to the log, and return its exit code."""
    # A session of its own, so that a Ctrl-C at the terminal reaches this process alone, which then asks for a stop.
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
    logger.info("%s: the processes save a checkpoint after this step, then leave", signal.Signals(number).name)
    write_text(exchange / STOP_REQUEST, str(number))


def _outcome(exchange: Path, processes: Processes, exit_code: int, own_signal: int | None) -> dict[str, Any]:
    """Return what the first process measured, or raise what ended the training."""
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
    # Whatever the exit code: with everything saved, a process can still fail when libraries are torn down.
    if len(kinds["done"]) == processes.world_size:
        measured: dict[str, Any] = reports[0]["measured"]
        return measured
    _raise_failure(exchange, processes, exit_code, reports)


def _raise_failure(exchange: Path, processes: Processes, exit_code: int, reports: Mapping[int, Any]) -> NoReturn:
    again = "the same command goes on from the last working checkpoint"
    for path in sorted(exchange.glob("node-*.json")):
        for failed in read_json(path)["failed"]:
            rank = failed["rank"]
            if rank not in reports and failed["exit_code"] < 0:
                name = signal.Signals(-failed["exit_code"]).name
                memory = ", perhaps for lack of memory" if name == "SIGKILL" else ""
                kind = LackOfMemoryError if memory else UserError
                raise kind(
                    f"process {rank} of {processes.world_size} (on {failed['host']}) was ended by {name}{memory} "
                    f"(exit code "
                    f"{failed['exit_code']}), and so the others were ended; {again}"
                )
    for rank, report in reports.items():
        if report["kind"] == "failed":
            raise RuntimeError(f"process {rank} of {processes.world_size} failed:\n{report['message']}")
    raise UserError(
        f"the {processes.world_size} processes ended with exit code {exit_code}, and none says why; their "
        f"messages are in "
        f"the log of this job; {again}"
    )


# What a process can say of its end.
REPORTS = ("done", "stopped", "lack_of_memory", "final", "user_error", "disk", "failed")


def report_file(exchange: Path, rank: int) -> Path:
    """Return the file in which a process says how it ended."""
    return exchange / f"rank-{rank}.json"


def node_file(exchange: Path, node: int) -> Path:
    """Return the file in which a node says which of its processes failed."""
    return exchange / f"node-{node}.json"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
