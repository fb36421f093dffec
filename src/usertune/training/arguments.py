"""The arguments of transformers' Trainer for a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from usertune.models.families.catalogue import family_of
from usertune.training.distributed.collectives import strategy_arguments
from usertune.training.inputs import FineTuning
from usertune.training.schedule import warm_up


def training_arguments(run: FineTuning, work: Path, reporting: Mapping[str, Any]) -> TrainingArguments:
    """Return the Trainer's arguments for a run whose execution settings are numbers, see `usertune.training.fitting`.

    Args:
        run: the run.
        work: folder of the working checkpoints.
        reporting: arguments for trackers.
    """
    training, execution = run.training, run.execution
    micro_batch_size, checkpointing = execution.micro_batch_size, execution.gradient_checkpointing
    assert micro_batch_size != "auto"
    assert checkpointing != "auto"
    is_sharded = run.processes.world_size > 1 and run.processes.strategy == "fsdp"
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=micro_batch_size,
        per_device_eval_batch_size=micro_batch_size,
        gradient_accumulation_steps=training.batch_size // (micro_batch_size * run.processes.world_size),
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        warmup_steps=warm_up(training, len(run.train_samples)),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        bf16=run.recipe.dtype == "bfloat16",
        **_checkpointing(checkpointing and not is_sharded),
        **strategy_arguments(run.processes, family_of(run.base_folder).sharded_modules, checkpointing),
        eval_strategy="steps" if run.validation_samples else "no",
        eval_steps=training.validate_every_steps,
        save_strategy="steps",
        save_steps=execution.save_every_steps,
        # Two, so that an older complete checkpoint remains while the newest is being written.
        save_total_limit=2,
        logging_strategy="steps",
        # Every step: the Trainer forgets a sum over several steps when it resumes between two log entries.
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=training.seed,
        data_seed=training.seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_num_workers=execution.dataloader_num_workers,
        remove_unused_columns=False,
        disable_tqdm=True,
        **reporting,
    )


def _checkpointing(wanted: bool) -> dict[str, Any]:
    # transformers is renaming this; older supported releases have only the old name.
    name = "activation_checkpointing"
    if name not in TrainingArguments.__dataclass_fields__:
        name = "gradient_checkpointing"
    return {name: wanted, f"{name}_kwargs": {"use_reentrant": False}}
