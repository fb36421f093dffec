"""What to do when SLURM would not take a job, by what SLURM 22.05 and later say."""

from __future__ import annotations

import pytest

from slurm_guard.submission_errors import advice

REFUSED = {
    # As seen on a cluster without a default partition, and with settings that its nodes cannot serve.
    "allocation failure: No partition specified or system default partition": "Set slurm_partition",
    "sbatch: error: invalid partition specified: nope allocation failure: Invalid partition name specified": (
        "Set slurm_partition"
    ),
    "allocation failure: Required partition not available (inactive or drain)": "Set slurm_partition",
    "allocation failure: Requested node configuration is not available": "No node has what is asked for",
    "sbatch: error: Invalid generic resource (gres) specification allocation failure: Requested node configuration is "
    "not available": "No node has what is asked for",
    "allocation failure: Invalid feature specification": "Set constraint",
    "allocation failure: Requested reservation is invalid": "Set slurm-guarded-reservation",
    "sbatch: error: Invalid --time specification": "SLURM does not know an option",
    "sbatch: error: Invalid --signal specification": "SLURM does not know an option",
    "sbatch: error: Invalid --mem specification": "SLURM does not know an option",
    "sbatch: unrecognized option '--nonsense=1' Try \"sbatch --help\" for more information": (
        "SLURM does not know an option"
    ),
    # Of clusters with accounting and limits, by SLURM's own list of messages.
    "allocation failure: Invalid account or account/partition combination specified": "Set slurm_account",
    "allocation failure: Job's account not permitted to use this partition (gpu allows a,b not c)": "Set slurm_account",
    "allocation failure: User's group not permitted to use this partition": "Set slurm_partition",
    "allocation failure: Invalid qos specification": "Set slurm-guarded-qos",
    "allocation failure: Requested time limit is invalid (missing or exceeds some limit)": "Lower runtime",
    "sbatch: error: QOSMaxWallDurationPerJobLimit allocation failure: Job violates accounting/QOS policy (job submit "
    "limit, user's size and/or time limits)": "Ask for less",
    "allocation failure: Access denied to requested reservation": "Set slurm-guarded-reservation",
    "allocation failure: Invalid Trackable RESource (TRES) specification": "No node has what is asked for",
    "allocation failure: More processors requested than permitted": "No node has what is asked for",
    "allocation failure: Requested more tasks than available processors": "No node has what is asked for",
    "allocation failure: CPU count specification invalid": "No node has what is asked for",
    "allocation failure: Node count specification invalid": "No node has what is asked for",
    "allocation failure: Memory required by task is not available": "No node has what is asked for",
}
MAY_PASS = (
    "Unable to contact slurm controller (connect failure)",
    "allocation failure: Unable to contact slurm controller (connect failure)",
    "no answer within 60 s",
    "Socket timed out on send/recv operation",
    "allocation failure: Requested nodes are busy",
    "allocation failure: Requested partition configuration not available now",
    "allocation failure: Required node not available (down, drained or reserved)",
    "allocation failure: Requested reservation not usable now",
    "allocation failure: Job can not start due to maintenance reservation.",
    "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
    "sbatch: error: AssocMaxSubmitJobLimit allocation failure: Job violates accounting/QOS policy (job submit limit, "
    "user's size and/or time limits)",
    "sbatch: error: QOSMaxSubmitJobPerUserLimit allocation failure: Job violates accounting/QOS policy (job submit "
    "limit, user's size and/or time limits)",
    "something that nobody has seen before",
    "",
)


@pytest.mark.parametrize("said", REFUSED)
def test_submission_errors_say_what_to_do_and_where(said: str) -> None:
    what_to_do = advice(said)
    assert what_to_do is not None
    assert what_to_do.startswith(REFUSED[said])
    assert " the profile" in what_to_do
    assert advice(said.upper()) == what_to_do
    assert advice(said, "my/profile.yaml") == what_to_do.replace("the profile", "my/profile.yaml")


@pytest.mark.parametrize("said", MAY_PASS)
def test_what_may_pass_by_itself_stops_no_run(said: str) -> None:
    assert advice(said) is None


@pytest.mark.parametrize("said", REFUSED)
def test_the_commands_that_list_what_there_is_are_whole(said: str) -> None:
    what_to_do = advice(said) or ""
    for command in what_to_do.split(": ")[1:]:
        assert command.split()[0] in {"sinfo", "sacctmgr", "scontrol", "see"}
