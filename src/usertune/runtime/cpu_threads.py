"""How the threads of numerical libraries wait, and how many a process has; must run before torch is imported.

An OpenMP thread that waits for another one spins, which keeps its core busy. Where other programs use the same cores,
the thread that is waited for is then often off its core, and a training step takes many times as long. Threads that
sleep while they wait cost nothing on a machine that is not busy (`benchmarks/busy_machine.py`), and the numbers that
they compute are the same. Knows nothing of torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

# How threads wait: in any OpenMP library, in GNU's (the one in torch's wheels for Linux), in LLVM's and Intel's.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# How many threads torch starts. The second counts where both are set.
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def wait_asleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads sleep while they wait for each other, unless the person has said how they wait."""
    if not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"


def threads_of_each(threads: int, processes: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that share ``threads`` among ``processes``; smaller numbers in ``environment`` are kept.

    Snakemake gives every job variables with the threads of the complete job.
    """
    share = max(1, threads // processes)
    shares = {}
    for name in COUNTS:
        given = environment.get(name, "")
        shares[name] = given if given.isdecimal() and 0 < int(given) < share else str(share)
    return shares
