"""How threads of numerical libraries wait, and how many there are; must be set before torch is imported.

A waiting OpenMP thread first spins, which keeps its core busy, then sleeps. If other programs use the same cores, a
long spin often keeps the awaited thread from running, and a training step takes many times as long; without any spin,
small models train at half the speed on an idle machine (`benchmarks/busy_machine.py`). All compute the same numbers.
Does not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

# How threads wait: in any OpenMP library, in GNU's (in torch's Linux wheels), in LLVM's and Intel's.
WAIT_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# GNU's library spins 300,000 times by default. Its count overrides the policy (libgomp/env.c), which is for the other
# libraries: they have no count, so their threads sleep at once. Measured in docs/decisions.md, 2026-11-30.
SHORT_SPIN = {"GOMP_SPINCOUNT": "30000", "OMP_WAIT_POLICY": "PASSIVE"}
# Number of torch's threads. If both are set, the second one takes effect.
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def limit_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make waiting threads sleep after a short spin, unless the environment already says how they wait."""
    if not any(name in environment for name in WAIT_SETTINGS):
        environment.update(SHORT_SPIN)


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
