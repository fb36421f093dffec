"""transformers' Trainer with an exact, sparse loss and batches that do not depend on the number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerControl
from transformers.trainer import SCHEDULER_NAME

from usertune.models.conversation import IGNORED_LABEL
from usertune.models.image_memory import ImageMemory
from usertune.training.batches import NUMBERS, Samples, Share, StepBatches
from usertune.training.checkpoints import (
    check_checkpoint,
    is_sharded,
    load_model_shards,
    load_optimizer_shards,
    load_unsharded_model,
    load_unsharded_optimizer,
)
from usertune.training.last_layer import LastLayer
from usertune.training.loader_workers import worker_setup
from usertune.training.sample_dropout import Draw

# For each micro-batch: its part of the loss, and the numbers of its samples.
Losses = list[tuple[torch.Tensor, torch.Tensor]]


def answer_loss_sum(
    model: nn.Module, batch: Mapping[str, torch.Tensor], last_layer: LastLayer | None = None
) -> torch.Tensor:
    """Return the summed cross-entropy over the answer tokens of a batch, in float32.

    Equals transformers' causal loss before its division, but computes the logits, which are as wide as the vocabulary,
    only at positions where a sample of the batch has a label.

    Args:
        model: a Qwen3-VL model, with or without adapters.
        batch: as from `Collator.training_batch`.
        last_layer: the model's last layer, to be computed only where labels are; None: it computes all positions.
    """
    # Padding is on the right, where causal attention never looks; with a mask, attention computes all pairs of tokens.
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "attention_mask", NUMBERS)}
    # The logits at position t predict the token at t + 1.
    next_labels = batch["labels"][:, 1:]
    positions = (next_labels != IGNORED_LABEL).any(dim=0).nonzero().squeeze(1)
    if last_layer is not None:
        last_layer.use(positions, batch["labels"].shape[1])
    logits = model(**inputs, logits_to_keep=positions, use_cache=False).logits.float()
    return cross_entropy(
        logits.flatten(0, 1), next_labels[:, positions].flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
    )


class SparseLossTrainer(Trainer):
    """Trainer whose loss is `answer_loss_sum`, weighted by tokens over the whole effective batch.

    Args:
        last_layer: the model's last layer.
        dropout: state of the adapters' dropout; None without dropout.
        images: keeps what is computed of images, of batches that `Collator` made with its ``grids``; None: nothing.
        settings: arguments of the Trainer.
    """

    control: TrainerControl

    def __init__(
        self,
        last_layer: LastLayer,
        dropout: Draw | None = None,
        images: ImageMemory | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.last_layer = last_layer
        self.dropout = dropout
        self.images = images
        # Qwen3-VL says False, which would give every micro-batch the same weight, however many answer tokens it has.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.seen_tokens = 0
        self.step_losses: Losses = []
        """Losses of the current step's micro-batches."""
        self.gradient_norm = math.nan
        """Gradient norm of the last step, over all processes, before clipping."""
        self.check_validation: Callable[[Losses, float], None] = lambda *_: None
        self._note_gradient_norm()

    def _note_gradient_norm(self) -> None:
        clip = self.accelerator.clip_grad_norm_

        def noting(*arguments: Any, **settings: Any) -> Any:
            norm = clip(*arguments, **settings)
            self.gradient_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
            return norm

        self.accelerator.clip_grad_norm_ = noting

    def get_train_dataloader(self) -> DataLoaderShard:
        """Return this process's micro-batches of one epoch."""
        accumulated = self.args.gradient_accumulation_steps * self.args.world_size
        return self._loader(self.train_dataset, self.args.train_batch_size, accumulated, self.args.data_seed)

    def get_eval_dataloader(self, *_: Any) -> DataLoaderShard:
        """Return this process's micro-batches of the validation samples."""
        return self._loader(self.eval_dataset, self.args.eval_batch_size, self.args.world_size, None)

    def _loader(self, samples: Samples, micro_batch_size: int, accumulated: int, seed: int | None) -> DataLoaderShard:
        # accelerate's own sharding gives some samples to two processes at the end of an epoch.
        share = Share(self.args.process_index, self.args.world_size)
        workers = self.args.dataloader_num_workers
        return DataLoaderShard(
            samples,
            device=self.accelerator.device,
            batch_sampler=StepBatches(samples, micro_batch_size * accumulated, micro_batch_size, share, seed),
            collate_fn=self.data_collator,
            num_workers=workers,
            worker_init_fn=worker_setup() if workers else None,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the batch's part of the mean loss over the answer tokens of the optimizer step."""
        self.seen_tokens += int(inputs["attention_mask"].sum())
        if self.dropout is not None:
            self.dropout.begin(inputs[NUMBERS], inputs["input_ids"].shape[1], self.state.global_step)
        if num_items_in_batch is None:
            num_items_in_batch = (inputs["labels"][:, 1:] != IGNORED_LABEL).sum()
        loss = answer_loss_sum(model, self._complete(inputs), self.last_layer) / num_items_in_batch
        if self.args.average_tokens_across_devices and self.accelerator.num_processes > 1:
            # Gradients are averaged over the processes, but the tokens were counted over all of them.
            loss = loss * self.accelerator.num_processes
        self.step_losses.append((loss.detach(), inputs[NUMBERS]))
        return (loss, None) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: nobody reads the number, and counting all weights takes milliseconds in every step."""
        return 0

    def _complete(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.images.complete(self.model, batch) if self.images is not None else batch

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        check_checkpoint(self.model if model is None else model, checkpoint)
        if is_sharded(checkpoint) == self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        elif self.is_fsdp_enabled:
            load_unsharded_model(self.model, checkpoint)
        else:
            load_model_shards(self.model, checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or is_sharded(Path(checkpoint)) == self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load = load_unsharded_optimizer if self.is_fsdp_enabled else load_optimizer_shards
        load(self.model, self.optimizer.optimizer, Path(checkpoint))
        schedule = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
        self.lr_scheduler.load_state_dict(schedule)

    @torch.no_grad()
    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Return the mean loss over all answer tokens of the validation samples."""
        losses: Losses = []
        total = torch.zeros(2, dtype=torch.float64)
        for loss, batch in self._losses(self.get_eval_dataloader()):
            losses.append((loss, batch[NUMBERS]))
            total[0] += loss.cpu().double()
            total[1] += (batch["labels"][:, 1:] != IGNORED_LABEL).sum().cpu()
        gathered = self.accelerator.reduce(total.float().to(self.args.device), reduction="sum").cpu()
        metrics = {f"{metric_key_prefix}_loss": float(gathered[0] / gathered[1])}
        self.check_validation(losses, metrics[f"{metric_key_prefix}_loss"])
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def losses_of_one_micro_batch(self) -> Losses:
        """Return the summed loss of one micro-batch of this process's training samples."""
        return [(loss, batch[NUMBERS]) for loss, batch in islice(self._losses(self.get_train_dataloader()), 1)]

    def _losses(self, batches: Iterable[Any]) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        """Yield the summed loss, without dropout, of every batch, and the batch."""
        model = self._wrap_model(self.model, training=False)
        model.eval()
        try:
            for batch in batches:
                batch = self._prepare_inputs(batch)
                with self.compute_loss_context_manager(), self.accelerator.autocast():
                    loss = answer_loss_sum(model, self._complete(batch), self.last_layer)
                yield loss, batch
        finally:
            model.train()
