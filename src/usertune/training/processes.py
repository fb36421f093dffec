"""World size and strategy of a training. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Processes:
    """The processes of one training: one per GPU, or several on the CPU.

    Args:
        nproc_per_node: processes on each node.
        nodes: number of nodes.
        strategy: "ddp": each process holds the full model; "fsdp": each holds a shard of it.
        threads: processor cores for all processes of a node.
    """

    nproc_per_node: int = 1
    nodes: int = 1
    strategy: Strategy = "ddp"
    threads: int = 1

    @property
    def world_size(self) -> int:
        """Number of processes on all nodes."""
        return self.nproc_per_node * self.nodes

    @property
    def parallel(self) -> Strategy | None:
        """How the processes train together; None for one alone."""
        return self.strategy if self.world_size > 1 else None


ALONE = Processes()
