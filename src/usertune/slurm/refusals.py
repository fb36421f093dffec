"""What to do when SLURM would not take a job."""

from __future__ import annotations

import re

PROFILE = "profiles/slurm/config.yaml"

# What sbatch says, and what to do about it; the first that fits counts.
_ADVICE = (
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
        r"node configuration|node count|generic resource|gres|more processors|cpu count|memory",
        f"No node has what is asked for. Ask for less, or for another gpu_model, in {PROFILE} under set-resources; "
        "what nodes have is listed by: sinfo --format='%P %c %m %G'",
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
    if re.search(r"unable to contact|busy|temporarily|not available now", said, re.IGNORECASE):
        return None
    return next((text for pattern, text in _ADVICE if re.search(pattern, said, re.IGNORECASE)), None)
