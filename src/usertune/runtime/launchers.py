"""Variables by which launchers (torchrun, accelerate, MPI) tell processes that they belong together.

They count only in processes that usertune launched. One that is left in a shell or in a container, say by an
interactive session of several processes, would make a training wait for processes that nobody starts. Knows nothing
of torch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

logger = logging.getLogger(__name__)

# Tells a training process whether the process that started it is still there.
PARENT = "USERTUNE_LAUNCHER"

# What torch, torchrun (PET_), accelerate and transformers read to find other processes, or to set up a strategy.
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
    """Return the number of this process among those that usertune launched together; 0 for any other process."""
    return int(environment["RANK"]) if PARENT in environment else 0


@contextmanager
def no_launcher() -> Iterator[None]:
    """Run the block without the variables of launchers; they are back afterwards.

    It must be entered before torch is imported, and by no process that usertune launched.
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
