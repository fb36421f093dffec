"""What to do when SLURM would not take a job."""

from __future__ import annotations

import re

PROFILE = "profiles/slurm/config.yaml"

_TEMPORARY = (
    r"unable to contact|no answer|timed out|busy|temporarily|not available now|not usable now|maintenance"
    r"|AssocMaxJobs|AssocMaxSubmit|AssocGrp|MaxJobsPer|MaxSubmitJob|QOSGrp"
)
# What sbatch says, and what to do about it; the first that fits counts.
_ADVICE = (
    (
        r"accounting/qos policy",
        f"Ask for less in {PROFILE}, under set-resources (runtime, gpu, mem_mb), or wait until other jobs of yours "
        "have ended; limits are listed by: sacctmgr show qos format=Name,MaxWall,MaxTRES,MaxTRESPU; and by: "
        "sacctmgr show associations user=$USER format=Account,QOS,MaxWall,MaxTRES,MaxSubmit",
    ),
    (
        r"account",
        f"Set slurm_account in {PROFILE}, under default-resources, to an account that you may use there; they are "
        "listed by: sacctmgr show associations user=$USER format=Account,Partition,QOS",
    ),
    (
        r"partition",
        f"Set slurm_partition in {PROFILE}, under default-resources, to a partition with GPUs; they are listed by: "
        "sinfo --format='%P %l %G'",
    ),
    (
        r"qos",
        f"Set slurm-guarded-qos in {PROFILE} to a quality of service that you may use; they are listed by: sacctmgr "
        "show associations user=$USER format=Account,Partition,QOS",
    ),
    (
        r"reservation",
        f"Set slurm-guarded-reservation in {PROFILE} to one that you may use, or take it out; they are listed by: "
        "scontrol show reservation",
    ),
    (
        r"feature",
        f"Set constraint in {PROFILE}, under set-resources, to features that nodes have; they are listed by: "
        "sinfo --format='%P %f'",
    ),
    (
        r"invalid --|unrecognized option|invalid time specification|invalid signal",
        f"SLURM does not know an option, or its value: see default-resources (slurm_extra) and set-resources in "
        f"{PROFILE}",
    ),
    (
        r"node configuration|node count|generic resource|gres|trackable resource|more processors|more tasks|cpu count"
        r"|memory",
        f"No node has what is asked for. Ask for less, or for another gpu_model, in {PROFILE} under set-resources; "
        "what nodes have is listed by: sinfo --format='%P %c %m %G'. Or all that have it are down; then see: sinfo "
        "--list-reasons",
    ),
    (
        r"time limit",
        f"Lower runtime in {PROFILE}, under set-resources, below the partition's limit; limits are listed by: "
        "sinfo --format='%P %l'",
    ),
)


def advice(said: str) -> str | None:
    """Return what to do about a refusal, None where it may pass by itself (busy or drained nodes).

    Args:
        said: what ``sbatch --test-only`` says.
    """
    if re.search(_TEMPORARY, said, re.IGNORECASE):
        return None
    return next((text for pattern, text in _ADVICE if re.search(pattern, said, re.IGNORECASE)), None)
