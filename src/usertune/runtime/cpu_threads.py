"""Wait policy and number of CPU threads of numerical libraries; must be set before torch is imported.

By default, a waiting OpenMP thread spins and keeps its core busy. If other programs use the same cores, this often
keeps the awaited thread from running, and a training step takes many times as long. Sleeping threads are not slower on
an idle machine (`benchmarks/busy_machine.py`) and compute the same numbers. Does not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

# Wait policy: of any OpenMP library, of GNU's (in torch's Linux wheels), of LLVM's and Intel's.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# Number of torch's threads. If both are set, the second one takes effect.
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def wait_asleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make waiting threads sleep, unless the environment already sets a wait policy."""
    if not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"


def threads_of_each(threads: int, processes: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return variables that divide ``threads`` among ``processes``; smaller values in ``environment`` are kept.

    Snakemake sets these variables to the threads of the complete job.
    """
    share = max(1, threads // processes)
    shares = {}
    for name in COUNTS:
        given = environment.get(name, "")
        shares[name] = given if given.isdecimal() and 0 < int(given) < share else str(share)
    return shares
