"""One fine-tuning run, from samples to saved weights, with transformers' Trainer and an exact, sparse loss."""

from __future__ import annotations

import csv
import io
import logging
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from torch import nn
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.utils import logging as transformers_logging

from usertune.core.errors import StopRequested
from usertune.core.files import check_writable, naming, write_text
from usertune.data.samples import Sample
from usertune.models.conversation import Collator, ConversationTokenizer
from usertune.models.families.catalogue import family_of
from usertune.models.loading import (
    load_processor,
    load_start,
    load_without_weights,
    prepare_for_training,
    used_gpus,
)
from usertune.runtime.energy import EnergyMeter, added
from usertune.runtime.memory import lack_named
from usertune.training.arguments import training_arguments
from usertune.training.batches import Samples, longest_samples, numbered_batch
from usertune.training.best import KeepBest
from usertune.training.callbacks import (
    KeepEffort,
    MarkCheckpoints,
    SayProgress,
    SkipLastCheckpoint,
    StopOnSignal,
    ValidateAtEnd,
)
from usertune.training.distributed.collectives import (
    check_parallel,
    from_first,
    gathered,
    launched_rank,
    rank,
    reduce_in_float32,
)
from usertune.training.effort import Effort
from usertune.training.finite import StopIfNotFinite, advice_for
from usertune.training.fitting import fitted
from usertune.training.fused_adapters import fuse_adapters
from usertune.training.fused_layers import fuse_layers
from usertune.training.inputs import FineTuning
from usertune.training.kept import KeepSteps, checkpoint_to_resume
from usertune.training.kept_images import image_memory
from usertune.training.last_layer import LastLayer
from usertune.training.measured import computed_with, measurements
from usertune.training.processes import Processes
from usertune.training.sample_dropout import draw_by_sample
from usertune.training.saved_weights import keep_weights, sample_of_trained, save_weights
from usertune.training.trackers import guard_trackers, tracked
from usertune.training.trainer import SparseLossTrainer

logger = logging.getLogger(__name__)


def fine_tune(
    run: FineTuning, work: Path, weights_folder: Path, log_file: Path, stop: StopOnSignal | None = None
) -> dict[str, Any]:
    """Train, resuming from the newest complete working checkpoint in ``work``, and save the weights.

    With several processes, each of them calls this; only rank 0 writes weights, processor and losses.

    Args:
        run: inputs of the run.
        work: folder of the working checkpoints, one for each fingerprint.
        weights_folder: output: the adapter or the full model (safetensors), with the processor.
        log_file: output: CSV of the loss curves: step, epoch, split, loss, learning_rate.
        stop: stops the run on a signal; None handles the signals of this process.

    Returns:
        Measurements over all processes, for the manifest (seconds, steps, samples and tokens per second, bytes of peak
        memory, ...).

    Raises:
        StopRequested: on a stop signal, after a working checkpoint was saved; without one if the signal also ended
            the data loader's workers.
        LackOfMemoryError: memory ran out; try a smaller micro-batch.
        FinalError: a loss, the gradients or the weights are not finite (no checkpoint holds such weights), or the
            processes could not be set up as asked.
        OSError: the disk is full or cannot be written.
    """
    with _lack_of_memory_named(run.execution.micro_batch_size), tracked(run.execution.tracking, work) as reporting:
        return _fine_tune(run, work, weights_folder, log_file, stop or StopOnSignal(), reporting)


def _fine_tune(
    run: FineTuning,
    work: Path,
    weights_folder: Path,
    log_file: Path,
    stop: StopOnSignal,
    reporting: Mapping[str, Any],
) -> dict[str, Any]:
    started = time.monotonic()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    set_seed(run.training.seed)
    conversations = _conversations(run)
    trained = prepare_for_training(_untrained(run), run.recipe.weights)
    before = sample_of_trained(run, trained)
    trainer, run = _trainer(run, work, trained, conversations, stop, reporting)
    save = partial(save_weights, trainer, conversations.processor, run, before)
    effort = Effort(work, started, computed_with(run, trainer))
    # Each process has chosen its GPU by now.
    meter = EnergyMeter(used_gpus())
    # An estimate until the end: the other processes use about as much.
    effort.energy = lambda: added([meter.joules()] * run.processes.world_size)
    batch_size = run.training.batch_size
    trainer.add_callback(KeepEffort(effort, len(run.train_samples), batch_size, lambda: trainer.seen_tokens))
    trainer.add_callback(_CheckParallel(trainer, run.processes))
    finite = StopIfNotFinite(trainer, advice_for(run.training.learning_rate, run.recipe.dtype))
    trainer.check_validation = finite.check_validation
    trainer.add_callback(finite)
    best = KeepBest(work, save if run.training.keep == "best" else None, run.training.early_stopping)
    trainer.add_callback(best)
    trainer.add_callback(KeepSteps(work, run.recipe.keep_checkpoints, save))
    resumed_from = from_first(lambda: checkpoint_to_resume(work, run.recipe.keep_checkpoints))
    if resumed_from:
        logger.info("resuming from %s", resumed_from)
    with stop, _disk_problems_named(work):
        _run(trainer, resumed_from, stop)
    if stop.signal:
        raise StopRequested(stop.signal)
    finite.check_weights()
    effort.tokens = sum(gathered(trainer.seen_tokens))
    energy = added(gathered(meter.joules()))
    effort.energy = lambda: energy
    cost = effort.total()
    if rank() == 0:
        write_text(log_file, _loss_table(trainer.state.log_history))
    with _disk_problems_named(work):
        kept = keep_weights(trainer, best, save, weights_folder, run)
    measured = {**measurements(trainer, run, cost, resumed_from), **kept}
    if run.reused is not None:
        trainer.last_layer.remove()
        run.reused.give_back(trainer.model)
    return measured


def _trainer(
    run: FineTuning,
    work: Path,
    trained: nn.Module,
    conversations: ConversationTokenizer,
    stop: StopOnSignal,
    reporting: Mapping[str, Any],
) -> tuple[SparseLossTrainer, FineTuning]:
    """Return the trainer, and the run with the execution settings that were chosen for it."""
    train = _tokenize(conversations, run.train_samples)
    validation = _tokenize(conversations, run.validation_samples)
    collate = Collator(conversations, run.dataset_root).training_batch
    dropout = draw_by_sample(trained, run.training.seed)
    fuse_adapters(trained)
    fuse_layers(trained, conversations.family)
    last_layer = LastLayer(trained, conversations.family)
    longest = partial(longest_samples, train, partial(numbered_batch, collate))
    run = replace(run, execution=fitted(run, work, trained, last_layer, dropout, longest))
    images = image_memory(run, trained, conversations.family)
    trainer = SparseLossTrainer(
        last_layer=last_layer,
        dropout=dropout,
        images=images,
        model=trained,
        args=training_arguments(run, work, reporting),
        train_dataset=train,
        eval_dataset=validation if len(validation) else None,
        data_collator=partial(numbered_batch, partial(collate, kept=None if images is None else images.grids)),
        callbacks=[
            SayProgress(len(train)),
            ValidateAtEnd(len(validation) > 0),
            MarkCheckpoints(),
            SkipLastCheckpoint(),
            stop,
        ],
    )
    # The Trainer prints every log entry; SayProgress logs what people need.
    trainer.remove_callback(PrinterCallback)
    guard_trackers(trainer, run.execution.tracking, work)
    reduce_in_float32(trainer)
    return trainer, run


def _conversations(run: FineTuning) -> ConversationTokenizer:
    if run.reused is not None and run.reused.conversations is not None:
        return run.reused.conversations
    processor = load_processor(run.base_folder, run.recipe.pixels)
    made = ConversationTokenizer(processor, family_of(run.base_folder), run.recipe.thinking)
    if run.reused is not None:
        run.reused.conversations = made
    return made


def _untrained(run: FineTuning) -> Any:
    """Return the model to train, without adapters."""
    if run.reused is not None:
        return run.reused.take()
    # Trained weights are kept in float32: in bfloat16, steps at small learning rates round to nothing.
    dtype = run.recipe.dtype if run.recipe.mode == "lora" else "float32"
    if run.processes.strategy == "fsdp" and launched_rank(run.processes):
        folder = run.start.folder if run.start is not None and run.start.mode == "full" else run.base_folder
        return load_without_weights(folder, dtype)
    return load_start(run.base_folder, run.start, dtype)


class _CheckParallel(TrainerCallback):
    """Checks world size and strategy before the first step."""

    def __init__(self, trainer: SparseLossTrainer, processes: Processes) -> None:
        self._trainer, self._processes = trainer, processes

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        check_parallel(self._trainer, self._processes)


@contextmanager
def _disk_problems_named(folder: Path) -> Iterator[None]:
    with naming(folder):
        try:
            yield
        except (RuntimeError, SafetensorError):
            # torch.save and safetensors do not raise OSError, and torch does not report the cause.
            check_writable(folder)
            raise


def _run(trainer: SparseLossTrainer, resumed_from: Path | None, stop: StopOnSignal) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(resumed_from) if resumed_from else None)
    except (RuntimeError, EOFError, ConnectionError):
        if stop.signal:
            # A scheduler signals all processes, which kills the data loader's workers in the middle of a step. Torch
            # would report them again, in whatever is written next.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            raise StopRequested(stop.signal) from None
        raise


def _lack_of_memory_named(micro_batch_size: Literal["auto"] | int) -> AbstractContextManager[None]:
    smaller = (
        "with retries in the profile, the next attempt takes fewer samples at once and requests more memory; or set "
        "micro_batch_size lower, or gradient_checkpointing: true"
    )
    alone = "set gradient_checkpointing: true, lower base_model.max_pixels, or use a GPU with more memory"
    return lack_named(
        f"out of memory with training.micro_batch_size {micro_batch_size}", alone if micro_batch_size == 1 else smaller
    )


def _tokenize(conversations: ConversationTokenizer, samples: Sequence[Sample]) -> Samples:
    return Samples([(sample, conversations.conversation(sample)) for sample in samples])


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
