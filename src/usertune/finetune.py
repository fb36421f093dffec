"""One fine-tuning run, from samples to saved weights: transformers' Trainer with an exact, sparse loss."""

from __future__ import annotations

import csv
import io
import logging
import resource
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, Trainer, TrainerControl, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from usertune.callbacks import MarkCheckpoints, SayProgress, StopOnSignal, ValidateAtEnd, newest_checkpoint
from usertune.collate import IGNORED_LABEL, Collator, ConversationTokenizer, TokenizedConversation
from usertune.data.samples import Sample
from usertune.errors import Stopped, UserError
from usertune.files import check_writable, naming, sync_folder, write_text
from usertune.model import device_name, is_out_of_memory, load_model, load_processor, prepare_for_training

logger = logging.getLogger(__name__)


TokenizedSample = tuple[Sample, TokenizedConversation]


@dataclass(frozen=True)
class FineTuning:
    """What one run needs: settings, where the base model and the images are, and the samples."""

    mode: str
    training: Mapping[str, Any]
    execution: Mapping[str, Any]
    dtype: str
    pixels: Mapping[str, int | None]
    base_folder: Path
    dataset_root: Path
    train_samples: Sequence[Sample]
    validation_samples: Sequence[Sample]


def fine_tune(run: FineTuning, work: Path, weights_folder: Path, log_file: Path) -> dict[str, Any]:
    """Train, resuming from the newest complete working checkpoint in ``work``, and save the weights.

    Args:
        run: what to train on what.
        work: folder of the working checkpoints; the caller gives each fingerprint its own.
        weights_folder: where the adapter or the whole model goes (safetensors), with the processor.
        log_file: CSV of the loss curves: step, epoch, split, loss, learning_rate.

    Returns:
        Measurements for the manifest (seconds, steps, samples and tokens a second, bytes of peak memory, ...).

    Raises:
        Stopped: a stop signal came; a working checkpoint was saved first, unless it ended the loader's workers too.
        UserError: memory ran out.
        OSError: the disk is full or cannot be written.
    """
    started = time.monotonic()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    set_seed(run.training["seed"])
    processor = load_processor(run.base_folder, run.pixels)
    conversations = ConversationTokenizer(processor)
    train = _tokenize(conversations, run.train_samples)
    validation = _tokenize(conversations, run.validation_samples)
    # Weights that are trained are kept in float32: bf16 steps at small learning rates round to nothing.
    model = load_model(run.base_folder, run.dtype if run.mode == "lora" else "float32")
    trained = prepare_for_training(model, run.mode, run.training)
    stop = StopOnSignal()
    trainer = _SparseLossTrainer(
        model=trained,
        args=_arguments(run, work),
        train_dataset=train,
        eval_dataset=validation or None,
        data_collator=Collator(conversations, run.dataset_root).training_batch,
        callbacks=[SayProgress(len(train)), ValidateAtEnd(bool(validation)), MarkCheckpoints(), stop],
    )
    # The Trainer prints every log entry; SayProgress says what a person needs.
    trainer.remove_callback(PrinterCallback)
    resumed_from = newest_checkpoint(work)
    if resumed_from:
        logger.info("resuming from %s", resumed_from)
    with stop, _disk_problems_named(work):
        _run(trainer, resumed_from, stop)
    if stop.signal:
        raise Stopped(stop.signal)
    seconds = time.monotonic() - started
    write_text(log_file, _loss_table(trainer.state.log_history))
    with _disk_problems_named(work):
        _save_weights(trained, processor, run, weights_folder)
    return _measurements(trainer, seconds, resumed_from)


@contextmanager
def _disk_problems_named(folder: Path) -> Iterator[None]:
    with naming(folder):
        try:
            yield
        except (RuntimeError, SafetensorError):
            # torch.save and safetensors do not raise OSError, and torch does not say what was wrong.
            check_writable(folder)
            raise


def _run(trainer: _SparseLossTrainer, resumed_from: Path | None, stop: StopOnSignal) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(resumed_from) if resumed_from else None)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if stop.signal:
            # A scheduler signals all processes, and the loader's workers die of it in the middle of a step.
            raise Stopped(stop.signal) from None
        if not is_out_of_memory(error):
            raise
        micro_batch = trainer.args.per_device_train_batch_size
        smaller = (
            "with retries in the profile the next attempt takes fewer samples at once and asks for more memory; or set "
            "micro_batch lower, or gradient_checkpointing: true"
        )
        alone = "set gradient_checkpointing: true, lower base_model.max_pixels, or use a GPU with more memory"
        advice = smaller if micro_batch > 1 else alone
        raise UserError(f"out of memory with training.micro_batch {micro_batch} ({error}); {advice}") from None


def answer_loss_sum(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the summed cross-entropy over the answer tokens of a batch, in float32.

    The same as transformers' own causal loss before its division, but the logits, which are as wide as the
    vocabulary, are computed only at positions where some sample of the batch has a label.

    Args:
        model: a Qwen3-VL model, with or without adapters.
        batch: as from `Collator.training_batch`.
    """
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    # The logits at position t predict the token at t + 1.
    next_labels = batch["labels"][:, 1:]
    positions = (next_labels != IGNORED_LABEL).any(dim=0).nonzero().squeeze(1)
    logits = model(**inputs, logits_to_keep=positions, use_cache=False).logits.float()
    return cross_entropy(
        logits.flatten(0, 1), next_labels[:, positions].flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
    )


class _SparseLossTrainer(Trainer):
    """Trainer whose loss is `answer_loss_sum`, weighted by tokens over the whole effective batch."""

    control: TrainerControl

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # Qwen3-VL says False, which would average micro-batches whatever their number of answer tokens.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.seen_tokens = 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        self.seen_tokens += int(inputs["attention_mask"].sum())
        if num_items_in_batch is None:
            num_items_in_batch = (inputs["labels"][:, 1:] != IGNORED_LABEL).sum()
        loss = answer_loss_sum(model, inputs) / num_items_in_batch
        if self.args.average_tokens_across_devices and self.accelerator.num_processes > 1:
            # Gradients are averaged over processes, while the tokens were counted over all of them.
            loss = loss * self.accelerator.num_processes
        return (loss, None) if return_outputs else loss

    @torch.no_grad()
    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Return the mean loss over all answer tokens of the validation samples."""
        model = self._wrap_model(self.model, training=False)
        model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for batch in self.get_eval_dataloader():
            batch = self._prepare_inputs(batch)
            with self.compute_loss_context_manager(), self.accelerator.autocast():
                loss = answer_loss_sum(model, batch)
            total[0] += loss.cpu().double()
            total[1] += (batch["labels"][:, 1:] != IGNORED_LABEL).sum().cpu()
        model.train()
        gathered = self.accelerator.reduce(total.float().to(self.args.device), reduction="sum").cpu()
        metrics = {f"{metric_key_prefix}_loss": float(gathered[0] / gathered[1])}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _tokenize(conversations: ConversationTokenizer, samples: Sequence[Sample]) -> list[TokenizedSample]:
    return [(sample, conversations.conversation(sample)) for sample in samples]


def _arguments(run: FineTuning, work: Path) -> TrainingArguments:
    training, execution = run.training, run.execution
    micro_batch = execution["micro_batch"]
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=training["epochs"],
        per_device_train_batch_size=micro_batch,
        per_device_eval_batch_size=micro_batch,
        gradient_accumulation_steps=training["batch_size"] // micro_batch,
        learning_rate=training["learning_rate"],
        lr_scheduler_type=training["schedule"],
        warmup_steps=training["warmup_steps"],
        weight_decay=training["weight_decay"],
        max_grad_norm=training["max_grad_norm"],
        bf16=run.dtype == "bfloat16",
        **_checkpointing(execution["gradient_checkpointing"]),
        eval_strategy="steps" if run.validation_samples else "no",
        eval_steps=training["validate_every_steps"],
        save_strategy="steps",
        save_steps=execution["save_every_steps"],
        # Two, so that an older complete checkpoint remains while the newest is being written.
        save_total_limit=2,
        logging_strategy="steps",
        # Every step: the Trainer forgets a sum over several steps when it resumes between two log entries.
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=training["seed"],
        data_seed=training["seed"],
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_num_workers=execution["loader_workers"],
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )


def _checkpointing(wanted: bool) -> dict[str, Any]:
    # transformers is renaming this: the older releases that the package accepts have the old name only.
    name = "activation_checkpointing"
    if name not in TrainingArguments.__dataclass_fields__:
        name = "gradient_checkpointing"
    return {name: wanted, f"{name}_kwargs": {"use_reentrant": False}}


def _loss_table(history: Sequence[Mapping[str, Any]]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["step", "epoch", "split", "loss", "learning_rate"])
    for entry in history:
        if "loss" in entry:
            writer.writerow([entry["step"], entry["epoch"], "train", entry["loss"], entry["learning_rate"]])
        elif "eval_loss" in entry:
            writer.writerow([entry["step"], entry["epoch"], "validation", entry["eval_loss"], ""])
    return table.getvalue()


def _save_weights(trained: nn.Module, processor: Any, run: FineTuning, folder: Path) -> None:
    """Save into a neighbour and rename, so that ``folder`` is complete whenever it exists."""
    temporary = folder.with_name(folder.name + ".tmp")
    for leftover in (temporary, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    if run.mode == "full":
        trained = trained.to(getattr(torch, run.dtype))
    trained.save_pretrained(str(temporary))  # type: ignore[operator]
    processor.save_pretrained(str(temporary))
    sync_folder(temporary)
    temporary.rename(folder)


def _measurements(trainer: _SparseLossTrainer, seconds: float, resumed_from: Path | None) -> dict[str, Any]:
    state = trainer.state
    first_step = int(resumed_from.name.rpartition("-")[2]) if resumed_from else 0
    share = (state.global_step - first_step) / max(1, state.global_step)
    validation = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
    samples = len(trainer.train_dataset) * trainer.args.num_train_epochs * share
    return {
        "wall_seconds": round(seconds, 2),
        "steps": state.global_step,
        "resumed_from_step": first_step,
        "samples_per_second": round(samples / seconds, 2),
        "tokens_per_second": round(trainer.seen_tokens / seconds, 1),
        "peak_memory_bytes": _peak_memory_bytes(),
        "final_validation_loss": validation[-1] if validation else None,
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "micro_batch": trainer.args.per_device_train_batch_size,
        "device": device_name(),
    }


def _peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
