"""Small trainings in this process, on samples with answers of very different lengths."""

from __future__ import annotations

import csv
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.calls import NO_LIMITS
from tests.unit.conftest import BASE, EXECUTION, Prepared
from usertune.models.conversation import Collator, ConversationTokenizer
from usertune.models.families.catalogue import family_of
from usertune.models.loading import load_processor
from usertune.training.callbacks import StopOnSignal
from usertune.training.finetune import fine_tune
from usertune.training.inputs import FineTuning
from usertune.training.recipe import Execution, TrainRecipe


def uneven_samples(prepared: Prepared, *users: str) -> Any:
    """Return samples with answers of very different lengths."""
    samples = prepared.samples(*users)
    for number, sample in enumerate(samples):
        sample["messages"][-1]["content"] = [{"type": "text", "text": "yes " * (1 + 9 * (number % 3))}]
    return samples


def fine_tuning(prepared: Prepared, mode: str = "lora", micro_batch_size: int = 4, **training: Any) -> FineTuning:
    """Return a training on users 11 and 12, validated on user 74."""
    return FineTuning(
        recipe=TrainRecipe.model_validate(prepared.train_recipe(mode, **training)),
        execution=Execution.model_validate({**EXECUTION, "micro_batch_size": micro_batch_size}),
        base_folder=BASE,
        dataset_root=prepared.root,
        train_samples=uneven_samples(prepared, "11", "12"),
        validation_samples=uneven_samples(prepared, "74"),
    )


def batch_of(prepared: Prepared, samples: Any) -> dict[str, torch.Tensor]:
    """Return a training batch of these samples, for the demo's base model."""
    conversations = ConversationTokenizer(load_processor(BASE, NO_LIMITS), family_of(BASE))
    pairs = [(sample, conversations.conversation(sample)) for sample in samples]
    return Collator(conversations, prepared.root).training_batch(pairs)


def train_and_read(run: FineTuning, out: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """Train, and return the table of losses and the weights."""
    fine_tune(run, out / "work", out / "weights", out / "log.csv")
    (weights,) = (out / "weights").glob("*.safetensors")
    return (out / "log.csv").read_text(), load_file(weights)


def measure(run: FineTuning, out: Path) -> dict[str, Any]:
    """Train, and return what was measured."""
    return fine_tune(run, out / "work", out / "weights", out / "log.csv")


def losses_of(table: str, split: str) -> list[float]:
    """Return the losses of a split in a table of losses."""
    return [float(row["loss"]) for row in csv.DictReader(table.splitlines()) if row["split"] == split]


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether all weights are equal to the bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a real SIGTERM when that many steps are done."""
    original = StopOnSignal.on_step_end

    def on_step_end(self: StopOnSignal, args: Any, state: Any, control: Any, **rest: Any) -> Any:
        if state.global_step == steps:
            signal.raise_signal(signal.SIGTERM)
        return original(self, args, state, control, **rest)

    monkeypatch.setattr(StopOnSignal, "on_step_end", on_step_end)
