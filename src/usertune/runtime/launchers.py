"""Environment variables with which launchers (torchrun, accelerate, MPI) describe a process group.

Only processes that usertune launched use them. A variable left in a shell or a container, for example from an
interactive run of several processes, would make a training wait for processes that never start. Does not import torch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

logger = logging.getLogger(__name__)

# With it, a training process checks whether its parent is still running.
PARENT = "USERTUNE_LAUNCHER"

# Variables that torch, torchrun (PET_), accelerate and transformers read to find processes or choose a strategy.
NAMES = frozenset(
    {
        "RANK",
        "LOCAL_RANK",
        "GROUP_RANK",
        "ROLE_RANK",
        "ROLE_NAME",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "GROUP_WORLD_SIZE",
        "ROLE_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "FORK_LAUNCHED",
    }
)
PREFIXES = (
    "TORCHELASTIC_",
    "PET_",
    "ACCELERATE_",
    "FSDP_",
    "PARALLELISM_CONFIG_",
    "OMPI_COMM_WORLD_",
    "PMI_",
    "PMIX_",
    "MV2_COMM_WORLD_",
)


def launched_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Return the rank of this process if usertune launched it in a group; 0 for any other process."""
    return int(environment["RANK"]) if PARENT in environment else 0


@contextmanager
def no_launcher() -> Iterator[None]:
    """Remove the variables of launchers while the block runs.

    Enter it before torch is imported, and not in a process that usertune launched.
    """
    found = {name: os.environ[name] for name in sorted(os.environ) if name in NAMES or name.startswith(PREFIXES)}
    if found:
        logger.info("ignoring variables of a launcher that did not start this process: %s", ", ".join(found))
    for name in found:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(found)
