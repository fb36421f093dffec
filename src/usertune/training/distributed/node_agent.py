"""Runs one node's training processes with torchrun: ``python -m usertune.training.distributed.node_agent TASK``."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

from usertune.core.files import read_json, write_json
from usertune.runtime.launchers import PARENT
from usertune.runtime.signals import STOP_SIGNALS, end_with_parent
from usertune.training.distributed.launch import node_file


def main(task_file: Path) -> int:
    """Start the training processes, wait for them, and record which of them failed.

    Returns:
        The exit code: 1 if a process failed, else 0.
    """
    # The training processes handle signals; torchrun, in this process, would end them at the first one.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    os.environ[PARENT] = str(os.getpid())
    # Imported after the signals are ignored, since it imports torch.
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    task = read_json(task_file)
    node = int(os.environ["SLURM_NODEID"]) if task["processes"]["nodes"] > 1 else 0
    try:
        run(
            parse_args(
                [*_rendezvous(task, node), "--module", "usertune.training.distributed.training_process", str(task_file)]
            )
        )
    except ChildFailedError as error:
        host = os.environ.get("SLURMD_NODENAME", socket.gethostname())
        failed = [
            {"rank": rank, "exit_code": failure.exitcode, "host": host}
            for rank, failure in sorted(error.failures.items(), key=lambda item: item[1].timestamp)
        ]
        write_json(node_file(task_file.parent, node), {"failed": failed})
        return 1
    return 0


def _rendezvous(task: dict[str, dict[str, int]], node: int) -> list[str]:
    processes = task["processes"]
    # torchrun ends the training processes on the signals it handles: give it one that nobody sends.
    arguments = ["--signals_to_handle", "SIGUSR2", "--nproc-per-node", str(processes["nproc_per_node"])]
    if processes["nodes"] == 1:
        return [*arguments, "--standalone", "--local-addr", "localhost"]
    return [
        *arguments,
        *("--nnodes", str(processes["nodes"]), "--node-rank", str(node)),
        # srun's address, since node names may not resolve.
        *("--master-addr", os.environ["SLURM_LAUNCH_NODE_IPADDR"], "--master-port", str(task["master_port"])),
    ]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
