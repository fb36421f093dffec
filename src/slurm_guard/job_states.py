"""What becomes of a submitted job: it goes on, it succeeded, or it failed. No job is waited for without end.

SLURM can leave a job in states from which nothing follows: preempted and not requeued, requeued and held, pending for
a reason that never ends, or not listed any more. Each has a time here after which the job counts as failed, and is
cancelled, so that it cannot come back beside the attempt that follows.
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

Outcome = Literal["going on", "succeeded", "failed"]


@dataclass(frozen=True)
class Fate:
    """What became of a job.

    Attributes:
        outcome: whether it goes on, succeeded or failed.
        message: what happened, for people.
        cancel: whether SLURM might still start it, so that it must be cancelled.
    """

    outcome: Outcome
    message: str = ""
    cancel: bool = False


GOES_ON = Fate("going on")


@dataclass
class JobStateJudge:
    """Judges jobs by what SLURM lists, remembering since when each has been in a state from which nothing follows.

    Attributes:
        patience: seconds after which such a state counts as failure.
        cleanup_patience: seconds that SLURM may take to clean up after a job (state ``COMPLETING``), or to bring it
            from one state to another.
        accounted: how a job ended that is not listed any more, None if nobody knows.
        clock: seconds, from any start.
    """

    patience: float = 60.0
    cleanup_patience: float = 900.0
    accounted: Callable[[str], str | None] = accounted_state
    clock: Callable[[], float] = time.monotonic
    _since: dict[str, tuple[str, float]] = field(default_factory=dict)

    def judge(self, job: str, listed: ListedJob | None) -> Fate:
        """Judge a job.

        Args:
            job: its number.
            listed: how SLURM lists it; None where it answers, but does not list the job.
        """
        fate = self._judge(job, listed)
        if fate.outcome != "going on":
            self._since.pop(job, None)
        return fate

    def _judge(self, job: str, listed: ListedJob | None) -> Fate:
        if listed is None:
            if not self._lasts(job, "not listed", self.patience):
                return GOES_ON
            state = self.accounted(job)
            if state == "COMPLETED":
                return Fate("succeeded")
            # Done or not, the next attempt finds out: what was finished is kept, and costs it seconds.
            said = f"its state is {state}" if state else "SLURM does not say how it ended"
            return Fate("failed", f"SLURM job {job} is not listed any more, and {said}", cancel=True)
        if listed.state == "COMPLETED":
            return Fate("succeeded")
        if listed.state in MAY_COME_BACK:
            message = f"SLURM job {job} ended as {listed.state} and was not requeued"
            return self._failed_if_it_lasts(job, listed.state, message)
        if listed.ended:
            return Fate("failed", f"SLURM job {job} ended as {listed.state}{_because(listed)}")
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
            return Fate("failed", f"SLURM job {job} has been {listed.state}{where} for too long", cancel=True)
        return GOES_ON

    def _failed_if_it_lasts(self, job: str, state: str, message: str) -> Fate:
        return Fate("failed", message, cancel=True) if self._lasts(job, state, self.patience) else GOES_ON

    def _lasts(self, job: str, state: str, patience: float) -> bool:
        """Whether a job has been in this state for longer than ``patience``, and was seen in it at least twice."""
        before, since = self._since.get(job, (None, 0.0))
        if before != state:
            self._since[job] = (state, self.clock())
            return False
        return self.clock() - since >= patience


def _because(listed: ListedJob) -> str:
    return "" if listed.reason in ("", "None") else f" ({listed.reason})"
