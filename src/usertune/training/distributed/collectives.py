"""Set-up and collective operations of the processes that train one model together."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from transformers import Trainer

from usertune.core.errors import FinalError
from usertune.training.processes import Processes

Value = TypeVar("Value")


def strategy_arguments(
    processes: Processes, sharded_modules: Sequence[str], gradient_checkpointing: bool
) -> dict[str, Any]:
    """Return the Trainer's arguments for several processes.

    Args:
        processes: world size and strategy.
        sharded_modules: classes of modules that FSDP shards, gathers and frees each on its own.
        gradient_checkpointing: whether to recompute activations. With FSDP this is part of the sharding, so that a
            layer's weights are gathered once for recomputation and gradients.
    """
    if processes.world_size == 1:
        return {}
    if processes.strategy == "ddp":
        return {"ddp_find_unused_parameters": False}
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": list(sharded_modules),
            "reshard_after_forward": True,
            "state_dict_type": "SHARDED_STATE_DICT",
            "activation_checkpointing": gradient_checkpointing,
            # Rank 0 alone loads the weights, and sends each shard to its process.
            "cpu_ram_efficient_loading": True,
        },
    }


def reduce_in_float32(trainer: Trainer) -> None:
    """Make FSDP reduce gradients in float32 where it computes in bfloat16; accelerate's default is bfloat16."""
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None and trainer.args.bf16:
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def check_parallel(trainer: Trainer, processes: Processes) -> None:
    """Check that the model was set up with the world size and strategy that the study asks for.

    Where that is impossible, the Trainer and accelerate silently do something else: without GPUs they replace FSDP by
    DDP; if one process sees several GPUs, they use them as its threads.

    Args:
        trainer: the trainer, after it wrapped the model.
        processes: the processes that the study asks for.

    Raises:
        FinalError: something else was set up.
    """
    asked = _set_up(processes.world_size, processes.strategy)
    found = _set_up(trainer.accelerator.num_processes, _strategy_found(trainer))
    if trainer.args.n_gpu > 1:
        found = f"one process on {trainer.args.n_gpu} GPUs"
    if asked == found:
        return
    no_gpu = processes.strategy == "fsdp" and not torch.cuda.is_available()
    advice = (
        "there is no GPU here, and FSDP needs GPUs: set parallel: ddp for this experiment"
        if no_gpu
        else "set gpus, nodes and parallel of this experiment to what this machine has"
    )
    raise FinalError(f"training should run as {asked}, but was set up as {found}; {advice}")


def _set_up(processes: int, strategy: str) -> str:
    return "one process" if processes == 1 else f"{processes} processes with {strategy}"


def _strategy_found(trainer: Trainer) -> str:
    model = trainer.model_wrapped
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return "ddp"
    parameters = list(model.parameters())
    sharded = sum(isinstance(parameter, DTensor) for parameter in parameters)
    in_float32 = all(parameter.dtype == torch.float32 for parameter in parameters if parameter.requires_grad)
    if sharded == len(parameters) and in_float32:
        return "fsdp"
    return f"no known strategy ({type(model).__name__}, {sharded} of {len(parameters)} weights sharded)"


def is_together() -> bool:
    """Whether the world size is above 1."""
    return bool(dist.is_initialized() and dist.get_world_size() > 1)


def rank() -> int:
    """Return the rank of this process; 0 if it is the only one."""
    return dist.get_rank() if is_together() else 0


def launched_rank(processes: Processes) -> int:
    """Return the rank that torchrun gave this process, also before the processes are connected; 0 for one process."""
    return int(os.environ["RANK"]) if processes.world_size > 1 else 0


def wait_for_all() -> None:
    """Wait until every process has called this."""
    if is_together():
        dist.barrier()


def highest(value: int) -> int:
    """Return the highest of all processes' values; every process must call this."""
    if not is_together():
        return value
    shared = torch.tensor([value], device=_device())
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared.item())


def from_first(function: Callable[[], Value]) -> Value:
    """Call a function in rank 0 only, and return its result in every process; every process must call this."""
    if not is_together():
        return function()
    shared = [function() if rank() == 0 else None]
    dist.broadcast_object_list(shared, src=0, device=_device())
    return shared[0]  # type: ignore[return-value]


def gathered(value: Value) -> list[Value]:
    """Return every process's value, by rank; every process must call this."""
    if not is_together():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def unsharded_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Gather a sharded model's weights in the memory of rank 0; every process must call this.

    Returns:
        Name (as in the unsharded model) -> weights on the CPU, float32; empty in the other processes.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, torch.Tensor] = get_model_state_dict(model, options=options)
    return state


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
