"""What to do when SLURM refuses a job, in terms of a Snakemake profile for the executor slurm-guarded."""

from __future__ import annotations

import re

_TEMPORARY = (
    r"unable to contact|no answer|timed out|busy|temporarily|not available now|not usable now|maintenance"
    r"|AssocMaxJobs|AssocMaxSubmit|AssocGrp|MaxJobsPer|MaxSubmitJob|QOSGrp"
)
# What sbatch says, and what to do about it; the first that fits counts.
_ADVICE = (
    (
        r"accounting/qos policy",
        "Ask for less in {profile}, under set-resources (runtime, gpu, mem_mb), or wait until other jobs of yours "
        "have ended; limits are listed by: sacctmgr show qos format=Name,MaxWall,MaxTRES,MaxTRESPU; and by: "
        "sacctmgr show associations user=$USER format=Account,QOS,MaxWall,MaxTRES,MaxSubmit",
    ),
    (
        r"account",
        "Set slurm_account in {profile}, under default-resources, to an account that you may use there; they are "
        "listed by: sacctmgr show associations user=$USER format=Account,Partition,QOS",
    ),
    (
        r"partition",
        "Set slurm_partition in {profile}, under default-resources, to a partition with GPUs; they are listed by: "
        "sinfo --format='%P %l %G'",
    ),
    (
        r"qos",
        "Set slurm-guarded-qos in {profile} to a quality of service that you may use; they are listed by: sacctmgr "
        "show associations user=$USER format=Account,Partition,QOS",
    ),
    (
        r"reservation",
        "Set slurm-guarded-reservation in {profile} to one that you may use, or take it out; they are listed by: "
        "scontrol show reservation",
    ),
    (
        r"feature",
        "Set constraint in {profile}, under set-resources, to features that nodes have; they are listed by: "
        "sinfo --format='%P %f'",
    ),
    (
        r"invalid --|unrecognized option|invalid time specification|invalid signal",
        "SLURM does not know an option, or its value: see default-resources (slurm_extra) and set-resources in "
        "{profile}",
    ),
    (
        r"node configuration|node count|generic resource|gres|trackable resource|more processors|more tasks|cpu count"
        r"|memory",
        "No node has what is asked for. Ask for less, or for another gpu_model, in {profile} under set-resources; "
        "what nodes have is listed by: sinfo --format='%P %c %m %G'. Or all that have it are down; then see: sinfo "
        "--list-reasons",
    ),
    (
        r"time limit",
        "Lower runtime in {profile}, under set-resources, below the partition's limit; limits are listed by: "
        "sinfo --format='%P %l'",
    ),
)


def advice(said: str, profile: str = "the profile") -> str | None:
    """Return what to do about a refusal; None if it may pass by itself (busy or drained nodes).

    Args:
        said: what ``sbatch --test-only`` says.
        profile: the file with the settings of the cluster.
    """
    if re.search(_TEMPORARY, said, re.IGNORECASE):
        return None
    found = next((text for pattern, text in _ADVICE if re.search(pattern, said, re.IGNORECASE)), None)
    return found and found.format(profile=profile)
