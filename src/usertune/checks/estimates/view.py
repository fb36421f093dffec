"""The estimate of a study as a table of its experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from usertune.checks.estimates.lines import VERDICTS, count, disk, head, time, warnings, where
from usertune.checks.estimates.memory import training_memory
from usertune.checks.estimates.study import Estimate, TrainingEstimate, gigabytes

# Key of the parts -> how people read it.
TRAINING_PARTS = {
    "weights": "weights",
    "optimizer": "optimizer (AdamW)",
    "gradients": "gradients",
    "copies": "copies for computing",
    "inputs": "pixels, visual tokens",
    "activations": "activations",
    "logits": "logits",
    "runtime": "libraries",
}
PREDICTION_PARTS = {
    "weights": "weights",
    "kv_cache": "KV cache",
    "inputs": "pixels, visual tokens",
    "activations": "activations",
    "logits": "logits",
    "runtime": "libraries",
}
STYLES = {"fits": "green", "tight": "yellow", "too large": "bold red", "unknown": ""}
NONE = "-"


def render(estimate: Estimate) -> RenderableType:
    """Return the estimate for a `rich.console.Console` of any width."""
    parts: list[RenderableType] = [Text(line) for line in head(estimate)]
    parts += [Text(), _table(estimate), Text(), Text(disk(estimate))]
    parts += [Text(line, style="yellow") for line in warnings(estimate)]
    return Group(*parts)


def _table(estimate: Estimate) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    names = list(dict.fromkeys([*estimate.predictions, *estimate.trainings]))
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    trainings = [estimate.trainings.get(name) for name in names]
    for title, cell in _training_rows(estimate):
        table.add_row(title, *(NONE if training is None else cell(training) for training in trainings))
    if not estimate.predictions:
        return table
    predictions = [estimate.predictions.get(name) for name in names]
    table.add_row("prediction", *("" for _ in names))
    for key, title in PREDICTION_PARTS.items():
        table.add_row(f"  {title}", *(NONE if one is None else gigabytes(one.memory[key]) for one in predictions))
    totals = (NONE if one is None else gigabytes(sum(one.memory.values())) for one in predictions)
    table.add_row("  together", *totals, style="bold")
    return table


def _training_rows(estimate: Estimate) -> Iterator[tuple[str, Callable[[TrainingEstimate], str | Text]]]:
    """Yield the title of each row about training, and what gives its cells."""
    yield "weights trained", lambda one: f"{count(one.trained)} ({100 * one.trained / estimate.shape.total:.3g} %)"
    yield "training", lambda one: where(one)
    for key, title in TRAINING_PARTS.items():
        yield f"  {title}", lambda one, key=key: gigabytes(one.memory[key])  # type: ignore[misc]
    yield "  together", lambda one: Text(gigabytes(one.need), style="bold")
    yield "", lambda one: Text(VERDICTS[one.verdict], style=STYLES[one.verdict])
    yield "  without checkpointing", lambda one: _with_checkpointing(estimate, one, False)
    yield "  with checkpointing", lambda one: _with_checkpointing(estimate, one, True)
    yield "steps", lambda one: f"{one.reached.steps:,}"
    yield "learning rate", lambda one: one.reached.in_words()
    yield "time", time
    yield "working checkpoint", lambda one: gigabytes(one.disk.checkpoint)
    yield "disk while training", lambda one: gigabytes(one.disk.peak)
    yield "disk afterwards", lambda one: gigabytes(one.disk.weights)


def _with_checkpointing(estimate: Estimate, training: TrainingEstimate, wanted: bool) -> str:
    assert estimate.train is not None
    plan = replace(training.plan, checkpointing=wanted)
    return gigabytes(sum(training_memory(estimate.shape, plan.setup, plan.batch(estimate.train)).values()))
