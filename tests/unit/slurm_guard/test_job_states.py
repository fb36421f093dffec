"""What becomes of a job by what SLURM lists, with a clock that the tests move."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slurm_guard.job_states import MAY_COME_BACK, MAY_LAST, JobState, JobStateJudge
from slurm_guard.queue import ENDED, ListedJob

# All that SLURM 22.05 to 25.11 can list (slurm.schedmd.com/job_state_codes.html).
STATES = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "COMPLETING", "CONFIGURING", "DEADLINE", "EXPEDITING", "FAILED",
    "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PENDING", "POWER_UP_NODE", "PREEMPTED", "RECONFIG_FAIL", "REQUEUED",
    "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "RESV_DEL_HOLD", "REVOKED", "RUNNING", "SIGNALING", "SPECIAL_EXIT",
    "STAGE_OUT", "STOPPED", "SUSPENDED", "TIMEOUT", "UPDATE_DB",
)  # fmt: skip
FAILED_AT_ONCE = ENDED - MAY_COME_BACK - {"COMPLETED"}
HELD = ("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
PASSING = ("COMPLETING", "EXPEDITING", "REQUEUED", "REQUEUE_FED", "SIGNALING", "STAGE_OUT", "UPDATE_DB")
# Reasons for which a job may wait as long as it must (slurm.schedmd.com/job_reason_codes.html).
MAY_END = (
    "None", "Priority", "Resources", "BeginTime", "Dependency", "Licenses", "Reservation", "Cleaning", "Prolog",
    "PartitionDown", "PartitionInactive", "NodeDown", "ReqNodeNotAvail, UnavailableNodes:n[1-2]", "JobHeldAdmin",
    "JobHeldUser", "QOSMaxJobsPerUserLimit", "QOSMaxGRESPerUser", "QOSMaxCpuPerUserLimit", "QOSGrpGRES",
    "QOSGrpCPUMinutesLimit", "AssocGrpGRESRunMinutes", "AssocMaxJobsLimit", "MaxGRESPerAccount", "QOSUsageThreshold",
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
)  # fmt: skip
NEVER = (
    "AccountNotAllowed", "BadConstraints", "DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS", "MaxMemPerLimit",
    "PartitionNodeLimit", "PartitionTimeLimit", "QOSMaxWallDurationPerJobLimit", "QOSMaxGRESPerJob",
    "QOSMaxGRESPerNode", "QOSMaxMemoryPerNode", "AssocMaxCpuPerJobLimit", "AssocMaxGRESPerNode",
    "QOSMaxGRESMinutesPerJob", "QOSMinCpuNotSatisfied", "QOSMinGRES", "QOSNotAllowed", "ReservationDeleted",
)  # fmt: skip
HELD_FOR = (
    "launch failed requeued held",
    "user env retrieval failed requeued held",
    "job requeued in held state",
    "JobHoldMaxRequeue",
)


@dataclass
class Cluster:
    """A judge, its clock, and the accounting that it may ask."""

    now: float = 1000.0
    accounted: str | None = None
    asked: int = 0
    judge: JobStateJudge = field(init=False)

    def __post_init__(self) -> None:
        self.judge = JobStateJudge(60.0, 900.0, self._ask, lambda: self.now)

    def _ask(self, job: str) -> str | None:
        self.asked += 1
        return self.accounted

    def show(self, state: str | None, reason: str = "None", after: float = 0.0, job: str = "7") -> JobState:
        """Judge a job in a state, None where it is not listed, some seconds after the last time."""
        self.now += after
        return self.judge.judge(job, ListedJob(job, state, reason, nodes="n1") if state else None)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_every_state_is_classified() -> None:
    assert set(STATES) == {*FAILED_AT_ONCE, *MAY_COME_BACK, "COMPLETED", *MAY_LAST, *HELD, *PASSING}


@pytest.mark.parametrize("state", sorted(MAY_LAST))
def test_jobs_wait_and_run_as_long_as_they_like(cluster: Cluster, state: str) -> None:
    for _ in range(3):
        assert cluster.show(state, after=1e6) == JobState("active")


@pytest.mark.parametrize("reason", MAY_END)
def test_reasons_that_may_end_are_waited_for(cluster: Cluster, reason: str) -> None:
    for _ in range(3):
        assert cluster.show("PENDING", reason, after=1e6) == JobState("active")


def test_success(cluster: Cluster) -> None:
    assert cluster.show("COMPLETED") == JobState("succeeded")
    assert cluster.asked == 0


@pytest.mark.parametrize("state", sorted(FAILED_AT_ONCE))
def test_failures(cluster: Cluster, state: str) -> None:
    assert cluster.show(state, "NonZeroExitCode") == JobState(
        "failed", f"SLURM job 7 ended as {state} (NonZeroExitCode)", cancel=False
    )
    assert cluster.show(state) == JobState("failed", f"SLURM job 7 ended as {state}")


def _fails_in_the_end(cluster: Cluster, state: str, reason: str, patience: float) -> str:
    assert cluster.show(state, reason) == JobState("active")
    assert cluster.show(state, reason, after=patience - 1) == JobState("active")
    ended = cluster.show(state, reason, after=1)
    assert ended.outcome == "failed"
    # Whoever waits for it no longer must know that it does not come back.
    assert ended.cancel
    # A job of the same number would start again.
    assert cluster.show(state, reason) == JobState("active")
    return ended.message


@pytest.mark.parametrize("state", sorted(MAY_COME_BACK))
def test_lost_jobs_may_come_back_for_a_while(cluster: Cluster, state: str) -> None:
    message = _fails_in_the_end(cluster, state, "None", 60)
    assert message == f"SLURM job 7 ended as {state} and was not requeued"


@pytest.mark.parametrize("state", sorted(MAY_COME_BACK))
def test_lost_jobs_that_come_back(cluster: Cluster, state: str) -> None:
    shown = [(state, 0), (state, 59), ("COMPLETING", 1), ("PENDING", 1), ("RUNNING", 100), (state, 100), (state, 59)]
    for listed, after in shown:
        assert cluster.show(listed, after=after) == JobState("active")
    assert cluster.show("COMPLETED", after=1) == JobState("succeeded")


@pytest.mark.parametrize(
    ("state", "reason"), [*((state, "None") for state in HELD), *(("PENDING", reason) for reason in HELD_FOR)]
)
def test_jobs_that_are_held_after_a_failure(cluster: Cluster, state: str, reason: str) -> None:
    message = _fails_in_the_end(cluster, state, reason, 60)
    assert message.startswith("SLURM job 7 was requeued and held")
    assert reason == "None" or f"({reason})" in message


def test_a_held_job_that_is_released(cluster: Cluster) -> None:
    cluster.show("REQUEUE_HOLD")
    cluster.show("PENDING", after=59)
    assert cluster.show("REQUEUE_HOLD", after=59) == JobState("active")
    assert cluster.show("REQUEUE_HOLD", after=59) == JobState("active")
    assert cluster.show("REQUEUE_HOLD", after=1).outcome == "failed"


@pytest.mark.parametrize("reason", NEVER)
def test_jobs_that_can_never_start(cluster: Cluster, reason: str) -> None:
    message = _fails_in_the_end(cluster, "PENDING", reason, 60)
    assert f"can never start ({reason}); ask for less in the profile (runtime, mem_mb, gpu" in message


def test_the_same_reasons_say_nothing_of_a_job_that_runs(cluster: Cluster) -> None:
    for reason in ("PartitionTimeLimit", "launch failed requeued held"):
        for _ in range(3):
            assert cluster.show("RUNNING", reason, after=100) == JobState("active")


@pytest.mark.parametrize("state", [*PASSING, "A_STATE_TO_COME", "?", ""])
def test_what_should_pass_and_does_not(cluster: Cluster, state: str) -> None:
    listed = ListedJob("7", state, nodes="n1")
    assert cluster.judge.judge("7", listed) == JobState("active")
    cluster.now += 899
    assert cluster.judge.judge("7", listed) == JobState("active")
    cluster.now += 1
    assert cluster.judge.judge("7", listed) == JobState(
        "failed", f"SLURM job 7 has been {state} on n1 for too long", True
    )


def test_cleaning_up_may_take_longer_than_patience_for_others(cluster: Cluster) -> None:
    assert cluster.show("COMPLETING") == JobState("active")
    assert cluster.show("COMPLETING", after=800) == JobState("active")
    assert cluster.show("COMPLETED", after=1) == JobState("succeeded")


@pytest.mark.parametrize(
    ("accounted", "expected"),
    [
        ("COMPLETED", JobState("succeeded")),
        ("TIMEOUT", JobState("failed", "SLURM job 7 is no longer listed, and its state is TIMEOUT", cancel=True)),
        (None, JobState("failed", "SLURM job 7 is no longer listed, and SLURM does not say how it ended", cancel=True)),
    ],
)
def test_jobs_that_are_not_listed_any_more(cluster: Cluster, accounted: str | None, expected: JobState) -> None:
    cluster.accounted = accounted
    cluster.show("RUNNING")
    # A job that was just submitted may not be listed yet either.
    assert cluster.show(None) == JobState("active")
    assert cluster.show(None, after=59) == JobState("active")
    assert cluster.asked == 0
    assert cluster.show(None, after=1) == expected
    assert cluster.asked == 1


def test_a_job_that_is_listed_again(cluster: Cluster) -> None:
    cluster.show(None)
    cluster.show("RUNNING", after=59)
    assert cluster.show(None, after=59) == JobState("active")
    assert cluster.show(None, after=59) == JobState("active")


def test_one_poll_never_decides_however_long_ago_the_last_was(cluster: Cluster) -> None:
    cluster.show("RUNNING")
    for state in (None, "PREEMPTED", "REQUEUE_HOLD", "COMPLETING"):
        assert cluster.show(state, after=1e6) == JobState("active")


def test_patience_is_kept_for_each_job(cluster: Cluster) -> None:
    cluster.show("PREEMPTED", job="1")
    cluster.show("PREEMPTED", job="2", after=30)
    assert cluster.show("PREEMPTED", job="1", after=30).outcome == "failed"
    assert cluster.show("PREEMPTED", job="2").outcome == "active"
    assert cluster.show("PREEMPTED", job="2", after=30).outcome == "failed"


SHOWN = st.tuples(
    st.none() | st.sampled_from(STATES) | st.text("ABC_", max_size=5),
    st.sampled_from((*MAY_END, *NEVER, *HELD_FOR)) | st.text(max_size=5),
)


def _may_last(state: str | None, reason: str) -> bool:
    """Whether a job may be in this state for ever."""
    if state == "PENDING":
        return reason not in (*NEVER, *HELD_FOR)
    return state in ("CONFIGURING", "POWER_UP_NODE", "RESIZING", "RUNNING", "STOPPED", "SUSPENDED")


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(SHOWN, st.floats(0, 1000))), SHOWN, st.sampled_from([None, "COMPLETED", "FAILED"]))
@example([], ("RESV_DEL_HOLD", ""), None)
def test_nothing_is_waited_for_without_end(
    before: list[tuple[tuple[str | None, str], float]], last: tuple[str | None, str], accounted: str | None
) -> None:
    cluster = Cluster(accounted=accounted)
    for (state, reason), after in before:
        cluster.show(state, reason, after)
    outcomes = {cluster.show(*last, after=500.0).outcome for _ in range(4)}
    if _may_last(*last):
        assert outcomes == {"active"}
    else:
        assert outcomes & {"failed", "succeeded"}
