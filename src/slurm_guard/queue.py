"""SLURM's own commands. Every call has a time limit, since SLURM may be away for a while."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

TIMEOUT_SECONDS = 60.0
# Id, state, reason, nodes, times of submission, start and end, comment (last, since it may hold anything).
LISTING = "%i|%T|%r|%N|%V|%S|%e|%k"
# States in which a job has ended; whether SLURM will bring it back is another question, see `slurm_guard.job_states`.
ENDED = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
        "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT",
    }
)  # fmt: skip


class NoAnswerError(Exception):
    """SLURM did not answer: its controller is away, or too busy."""


@dataclass(frozen=True)
class ListedJob:
    """A job as SLURM lists it.

    Attributes:
        id: its number.
        state: its state, as ``RUNNING``.
        reason: why it waits, or ended; ``None`` in SLURM's own spelling where there is no reason.
        nodes: the nodes that it has.
        submitted_at, started_at, ended_at: local times in ISO 8601, None where unknown. Of a job that waits or runs
            SLURM also lists when it expects it to start or end.
        comment: the comment that it was submitted with.
    """

    id: str
    state: str
    reason: str = "None"
    nodes: str = ""
    submitted_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    comment: str = ""

    @property
    def ended(self) -> bool:
        """Whether the job has ended, as far as SLURM knows now."""
        return self.state in ENDED


def list_jobs(name: str) -> dict[str, ListedJob]:
    """Return one's own jobs of a name by their ids: those that wait or run, and those that ended a short time ago.

    How long ended jobs are listed is the cluster's choice (``MinJobAge``, 300 seconds by default).

    Raises:
        NoAnswerError: SLURM did not answer.
    """
    command = ["squeue", "--me", f"--name={name}", "--states=all", "--noheader", f"--format={LISTING}"]
    return {job.id: job for job in map(_parse, run(command).split("\n")) if job}


def accounted_state(job: str) -> str | None:
    """Return how a job ended, from SLURM's accounting; None without accounting, or before it knows."""
    if shutil.which("sacct") is None:
        return None
    try:
        listing = run(["sacct", "-X", "--noheader", "--parsable2", "--format=State", f"--jobs={job}"])
    except NoAnswerError:
        return None
    # A cancelled job has the state "CANCELLED by 1000"; of a requeued one the last attempt counts.
    states = [line.split()[0] for line in listing.splitlines() if line.strip()]
    return states[-1] if states and states[-1] in ENDED else None


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs; those that have ended are skipped.

    Raises:
        NoAnswerError: SLURM did not answer.
    """
    if jobs:
        run(["scancel", "--quiet", *jobs])


def cancel_all(name: str) -> None:
    """Cancel all of one's own jobs of a name.

    Raises:
        NoAnswerError: SLURM did not answer.
    """
    run(["scancel", "--quiet", "--me", f"--name={name}"])


def answers() -> bool:
    """Whether SLURM's controller answers."""
    try:
        return " is UP" in run(["scontrol", "ping"])
    except NoAnswerError:
        return False


def run(command: Sequence[str]) -> str:
    """Run one of SLURM's commands and return what it prints.

    Raises:
        NoAnswerError: it failed, took too long, or is not there.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_SECONDS, check=True
        )
    except subprocess.CalledProcessError as error:
        raise NoAnswerError(f"{command[0]}: {error.stderr.strip() or f'exit code {error.returncode}'}") from None
    except subprocess.TimeoutExpired:
        raise NoAnswerError(f"{command[0]}: no answer within {TIMEOUT_SECONDS:.0f} s") from None
    except OSError as error:
        raise NoAnswerError(f"{command[0]}: {error.strerror}") from None
    return done.stdout


def _parse(line: str) -> ListedJob | None:
    fields = line.split("|", LISTING.count("|"))
    if len(fields) <= LISTING.count("|"):
        return None
    job, state, reason, nodes, submitted, started, ended, comment = (field.strip() for field in fields)
    return ListedJob(job, state, reason, nodes, _time(submitted), _time(started), _time(ended), comment)


def _time(text: str) -> str | None:
    return None if text in ("", "N/A", "NONE", "Unknown", "(null)") else text
