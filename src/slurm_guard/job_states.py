"""The state of a submitted job: active, succeeded, or failed. No job is waited for without end.

SLURM can leave a job in states that never end: preempted and not requeued, requeued and held, pending for a permanent
reason, or no longer listed. After a while in one of them the job counts as failed and is cancelled, so that it cannot
come back next to the following attempt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from slurm_guard.queue import ListedJob, accounted_state

# Ended, but SLURM requeues such jobs where it may, and lists them as ended for a moment before.
MAY_COME_BACK = frozenset({"NODE_FAIL", "PREEMPTED"})
HELD = frozenset({"REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
# Among them "launch failed requeued held" and "user env retrieval failed requeued held".
HELD_REASONS = ("requeued held", "job requeued in held state", "JobHoldMaxRequeue")
# States in which a job may stay for as long as it likes; in all others only for a while.
MAY_LAST = frozenset({"CONFIGURING", "PENDING", "POWER_UP_NODE", "RESIZING", "RUNNING", "STOPPED", "SUSPENDED"})
# A cluster that does not set EnforcePartLimits takes jobs that it will never start.
NEVER_REASONS = (
    "AccountNotAllowed", "BadConstraints", "DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS",
    "MaxMemPerLimit", "PartitionNodeLimit", "PartitionTimeLimit", "PerJob", "PerNode", "QOSMin", "QOSNotAllowed",
    "ReservationDeleted", "ReservationInvalid",
)  # fmt: skip

Outcome = Literal["active", "succeeded", "failed"]


@dataclass(frozen=True)
class JobState:
    """The state of a job, as its submitter has to act on it.

    Attributes:
        outcome: whether it is active (waits or runs), succeeded or failed.
        message: what happened, for people.
        cancel: whether SLURM might still start it, so that it must be cancelled.
    """

    outcome: Outcome
    message: str = ""
    cancel: bool = False


ACTIVE = JobState("active")


@dataclass
class JobStateJudge:
    """Judges jobs by what SLURM lists, and remembers since when each has been in a state that never ends.

    Attributes:
        patience: seconds after which such a state counts as failure.
        cleanup_patience: seconds that SLURM may take to clean up after a job (state ``COMPLETING``), or to bring it
            from one state to another.
        accounted: how a job ended that is no longer listed; None if nobody knows.
        clock: seconds, from any start.
    """

    patience: float = 60.0
    cleanup_patience: float = 900.0
    accounted: Callable[[str], str | None] = accounted_state
    clock: Callable[[], float] = time.monotonic
    _since: dict[str, tuple[str, float]] = field(default_factory=dict)

    def judge(self, job: str, listed: ListedJob | None) -> JobState:
        """Judge a job.

        Args:
            job: its number.
            listed: how SLURM lists it; None where it answers, but does not list the job.
        """
        state = self._judge(job, listed)
        if state is not ACTIVE:
            self._since.pop(job, None)
        return state

    def _judge(self, job: str, listed: ListedJob | None) -> JobState:
        if listed is None:
            if not self._lasts(job, "not listed", self.patience):
                return ACTIVE
            ended_as = self.accounted(job)
            if ended_as == "COMPLETED":
                return JobState("succeeded")
            # Done or not, the next attempt finds out: what was finished is kept, and costs it seconds.
            said = f"its state is {ended_as}" if ended_as else "SLURM does not say how it ended"
            return JobState("failed", f"SLURM job {job} is no longer listed, and {said}", cancel=True)
        if listed.state == "COMPLETED":
            return JobState("succeeded")
        if listed.state in MAY_COME_BACK:
            message = f"SLURM job {job} ended as {listed.state} and was not requeued"
            return self._failed_if_it_lasts(job, listed.state, message)
        if listed.ended:
            return JobState("failed", f"SLURM job {job} ended as {listed.state}{_because(listed)}")
        waits_for = listed.reason if listed.state == "PENDING" else ""
        if listed.state in HELD or any(reason in waits_for for reason in HELD_REASONS):
            message = f"SLURM job {job} was requeued and held{_because(listed)}"
            return self._failed_if_it_lasts(job, "held", message)
        if any(reason in waits_for for reason in NEVER_REASONS):
            message = (
                f"SLURM job {job} can never start{_because(listed)}; ask for less in the profile (runtime, mem_mb, "
                "gpu, slurm_partition)"
            )
            return self._failed_if_it_lasts(job, listed.reason, message)
        if listed.state in MAY_LAST:
            self._since.pop(job, None)
        elif self._lasts(job, listed.state, self.cleanup_patience):
            where = f" on {listed.nodes}" if listed.nodes else ""
            return JobState("failed", f"SLURM job {job} has been {listed.state}{where} for too long", cancel=True)
        return ACTIVE

    def _failed_if_it_lasts(self, job: str, state: str, message: str) -> JobState:
        return JobState("failed", message, cancel=True) if self._lasts(job, state, self.patience) else ACTIVE

    def _lasts(self, job: str, state: str, patience: float) -> bool:
        """Whether a job has been in this state for longer than ``patience``, and was seen in it at least twice."""
        before, since = self._since.get(job, (None, 0.0))
        if before != state:
            self._since[job] = (state, self.clock())
            return False
        return self.clock() - since >= patience


def _because(listed: ListedJob) -> str:
    return "" if listed.reason in ("", "None") else f" ({listed.reason})"
