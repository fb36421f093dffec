"""A throw-away SLURM cluster on this one machine: several virtual nodes with made-up GPUs, no database.

Nothing of a SLURM that the machine may have is touched: configuration, key, sockets, state and ports are its own.
By hand, from the repository:

    python -m tests.support.slurm_cluster start     # prints what to export
    python -m tests.support.slurm_cluster stop
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

import psutil

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch")
PACKAGES = "slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins"
CLIENTS = ("srun", "sbatch", "scancel", "squeue", "sinfo", "scontrol")
SYSTEM_PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge/munge.sock
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
JobRequeue=1
MinJobAge={min_job_age}
ReturnToService=2
InactiveLimit=0
KillWait=10
CompleteWait=0
WaitTime=0
OverTimeLimit=0
SlurmctldTimeout=10
SlurmdTimeout=10
TCPTimeout=2
MessageTimeout=5
BatchStartTimeout=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
NodeName=n[0-{last}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_port}-{last_port}] CPUs={cpus} \
RealMemory={memory} Gres=gpu:fake:{gpus} State=UNKNOWN
PartitionName=gpu Nodes=ALL Default={default} MaxTime=UNLIMITED DefMemPerCPU=100 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=short Nodes=ALL MaxTime=60 DefMemPerCPU=100 PriorityTier=1 PreemptMode=OFF
PartitionName=fickle Nodes=ALL MaxTime=UNLIMITED DefMemPerCPU=100 PriorityTier=1 PreemptMode=CANCEL
PartitionName=urgent Nodes=ALL MaxTime=UNLIMITED DefMemPerCPU=100 PriorityTier=10 PreemptMode=OFF
"""


@dataclass(frozen=True)
class Cluster:
    """A cluster of virtual nodes n0, n1, ... on this machine.

    Its partitions: gpu (the default one; its jobs are requeued when urgent needs the node), short (time limit 60
    minutes), fickle (its jobs are ended when urgent needs the node), urgent.

    Attributes:
        root: folder of configuration, state and logs.
        nodes: how many nodes; CPUs, MB of memory and GPUs of each need not be there in truth.
        port: the first of ``21 + nodes`` ports.
        min_job_age: seconds for which ended jobs are still listed.
        default: whether jobs that name no partition have one.
    """

    root: Path
    nodes: int = 3
    gpus: int = 2
    cpus: int = 8
    memory: int = 400_000
    port: int = 16817
    min_job_age: int = 300
    default: bool = True

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to reach the cluster."""
        return {
            "SLURM_CONF": str(self.root / "etc/slurm.conf"),
            "PATH": os.pathsep.join([str(self.root / "bin"), SYSTEM_PATH]),
        }

    def start(self) -> None:
        """Start all daemons that do not run yet, and wait until every node is idle."""
        missing = [program for program in PROGRAMS if shutil.which(program, path=SYSTEM_PATH) is None]
        if missing:
            raise RuntimeError(f"{', '.join(missing)} not found; apt-get install --no-install-recommends {PACKAGES}")
        self._configure()
        munge = self.root / "munge"
        if not self._alive("munged"):
            for leftover in munge.glob("munge.sock*"):
                leftover.unlink()
            self._run(
                "munged", "--force", "--num-threads=4", f"--key-file={munge}/munge.key",
                f"--socket={munge}/munge.sock", f"--pid-file={self.root}/run/munged.pid",
                f"--log-file={self.root}/log/munged.log", f"--seed-file={munge}/munge.seed",
            )  # fmt: skip
        self.start_controller()
        for number in range(self.nodes):
            self.start_node(f"n{number}")
        self.wait_until_idle()

    def stop(self) -> None:
        """End all jobs and daemons, and the processes that outlived a killed node; their state is then useless."""
        if self._alive("slurmctld"):
            with suppress(RuntimeError):
                self._run("scancel", "--user", getuser())
                self.wait_for("jobs to end", lambda: not self._run("squeue", "--noheader"), 20)
        daemons = [f"slurmd-n{number}" for number in range(self.nodes)]
        for name in (*daemons, "slurmctld", "munged"):
            self._kill(name)
        for process in psutil.process_iter(["name"]):
            if process.info["name"] == "slurmstepd" and self._is_ours(process):
                for child in [*process.children(recursive=True), process]:
                    with suppress(psutil.Error):
                        child.kill()

    def start_controller(self) -> None:
        """Start slurmctld and wait until it answers."""
        if not self._alive("slurmctld"):
            self._run("slurmctld", output=self.root / "log/slurmctld.out")
        self.wait_for("slurmctld", lambda: "UP" in self._run("scontrol", "ping"), 20)

    def stop_controller(self) -> None:
        """End slurmctld; running jobs run on."""
        self._end("slurmctld")

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node."""
        if not self._alive(f"slurmd-{name}"):
            (self.root / "spool" / name).mkdir(parents=True, exist_ok=True)
            self._run("slurmd", "-N", name, output=self.root / f"log/slurmd-{name}.out")

    def kill_node(self, name: str) -> None:
        """Kill the slurmd of a node with SIGKILL: for SLURM the node is lost, while its jobs live on."""
        assert self._alive(f"slurmd-{name}")
        self._kill(f"slurmd-{name}")

    def command(self, *command: str) -> str:
        """Run one of SLURM's commands; return what it prints.

        Raises:
            RuntimeError: it fails.
        """
        return self._run(*command)

    def jobs(self, states: str = "all") -> list[dict[str, str]]:
        """Return the listed jobs: id, state, name, node and comment of each."""
        listing = self._run("squeue", "--noheader", f"--states={states}", "--format=%A|%T|%j|%N|%k")
        keys = ("id", "state", "name", "node", "comment")
        return [dict(zip(keys, line.split("|"), strict=True)) for line in listing.splitlines()]

    def wait_until_idle(self) -> None:
        """Wait until every node can take jobs."""
        states = ("sinfo", "--noheader", "--Node", "--states=idle,mixed,allocated", "--format=%N")
        self.wait_for("all nodes to be idle", lambda: len(set(self._run(*states).split())) == self.nodes, 30)

    @staticmethod
    def wait_for(what: str, condition: Callable[[], object], seconds: float) -> None:
        """Wait until a condition holds; a command that fails meanwhile counts as not yet.

        Raises:
            RuntimeError: it does not hold in time.
        """
        end = time.monotonic() + seconds
        while True:
            with suppress(RuntimeError):
                if condition():
                    return
            if time.monotonic() > end:
                raise RuntimeError(f"waited {seconds:.0f} s in vain for {what}")
            time.sleep(0.1)

    def _configure(self) -> None:
        etc = self.root / "etc"
        for folder in ("etc", "run", "log", "dev", "state", "spool", "bin", "munge"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "munge").chmod(0o711)
        if not (self.root / "munge/munge.key").exists():
            self._run("mungekey", "--create", f"--keyfile={self.root}/munge/munge.key")
        last = self.nodes - 1
        text = CONFIGURATION.format(
            host=socket.gethostname().split(".")[0], user=getuser(), root=self.root, port=self.port,
            min_job_age=self.min_job_age, last=last, first_port=self.port + 20, last_port=self.port + 20 + last,
            cpus=self.cpus, memory=self.memory, gpus=self.gpus, default="YES" if self.default else "NO",
        )  # fmt: skip
        (etc / "slurm.conf").write_text(text)
        gres = ["AutoDetect=off"]
        for node in range(self.nodes):
            for number in range(node * self.gpus, (node + 1) * self.gpus):
                device = self.root / f"dev/gpu{number}"
                if not device.exists():
                    _make_device(device, number)
                gres.append(f"NodeName=n{node} Name=gpu Type=fake File={device}")
        (etc / "gres.conf").write_text("\n".join(gres) + "\n")
        # The jobstep plugin removes SLURM_CONF from the environment before it calls srun.
        for client in CLIENTS:
            wrapper = self.root / "bin" / client
            wrapper.write_text(f'#!/bin/sh\nexport SLURM_CONF={etc}/slurm.conf\nexec /usr/bin/{client} "$@"\n')
            wrapper.chmod(0o755)

    def _run(self, *command: str, output: Path | None = None) -> str:
        environment = {**os.environ, **self.environment}
        # A daemon keeps what it inherits open, so it must not inherit a pipe that somebody reads to its end.
        with output.open("a") if output else tempfile.TemporaryFile("w+") as said:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, env=environment, timeout=60
            )
            if output:
                text = output.read_text()
            else:
                said.seek(0)
                text = said.read()
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {text.strip()}")
        return text

    def _alive(self, daemon: str) -> psutil.Process | None:
        with suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(int((self.root / f"run/{daemon}.pid").read_text()))
            if process.name() == daemon.split("-")[0] and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def _end(self, daemon: str) -> None:
        process = self._alive(daemon)
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except psutil.TimeoutExpired:
            self._kill(daemon)

    def _kill(self, daemon: str) -> None:
        if process := self._alive(daemon):
            process.kill()
            process.wait()

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return any(Path(file.path).is_relative_to(self.root) for file in process.open_files())
        return False


def free_ports(count: int) -> int:
    """Return the first of that many adjacent free ports."""
    for first in range(20_000, 32_000, count):
        with ExitStack() as held, suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise RuntimeError(f"no {count} neighbouring ports are free")


def _make_device(path: Path, number: int) -> None:
    # SLURM sets CUDA_VISIBLE_DEVICES only for files that are character devices.
    try:
        os.mknod(path, 0o20666, os.makedev(240, number))
    except PermissionError:
        path.symlink_to("/dev/null")


def export_lines(environment: Mapping[str, str]) -> str:
    """Return shell commands that make the cluster the one to use."""
    return "\n".join(f"export {name}='{value}'" for name, value in environment.items())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("--root", type=Path, default=Path(tempfile.gettempdir()) / "usertune-test-cluster")
    arguments = parser.parse_args()
    one = Cluster(arguments.root)
    if arguments.action == "start":
        one.start()
        print(export_lines(one.environment))
    else:
        one.stop()
