"""How many processes train together, and how they share the work. Knows nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Processes:
    """The processes of one training: one for each GPU, or as many on the CPU.

    Args:
        nproc_per_node: processes on each node.
        nodes: nodes.
        strategy: "ddp", where each process holds the whole model, or "fsdp", where each holds a share of it.
        threads: processor cores for all processes of a node.
    """

    nproc_per_node: int = 1
    nodes: int = 1
    strategy: Strategy = "ddp"
    threads: int = 1

    @property
    def world_size(self) -> int:
        """Processes on all nodes."""
        return self.nproc_per_node * self.nodes


ALONE = Processes()
