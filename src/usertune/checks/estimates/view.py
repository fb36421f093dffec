"""The estimate of a study as a table of its experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from usertune.checks.estimates.lines import VERDICTS, disk, head, time, warnings
from usertune.checks.estimates.memory import training_memory
from usertune.checks.estimates.schedule import rate
from usertune.checks.estimates.study import Estimate, TrainingEstimate
from usertune.core.formatting import byte_size, count, duration

# Key of the parts -> how people read it.
TRAINING_PARTS = {
    "weights": "weights",
    "optimizer": "optimizer (AdamW)",
    "gradients": "gradients",
    "copies": "copies for computing",
    "inputs": "images and embeddings",
    "activations": "activations",
    "logits": "logits",
    "runtime": "libraries",
}
PREDICTION_PARTS = {
    "weights": "weights",
    "kv_cache": "KV cache",
    "inputs": "images and embeddings",
    "activations": "activations",
    "logits": "logits",
    "runtime": "libraries",
}
STYLES = {"fits": "green", "tight": "yellow", "too large": "bold red", "unknown": ""}
NONE = "-"
INDENT, GAP = "  ", "  "
# Takes the estimate of a training or of a prediction.
Cell = Callable[[Any], str | Text]


@dataclass(frozen=True)
class Row:
    """A row of the table: its title and a cell for each experiment; without cells, the heading of a group."""

    title: str
    cells: Sequence[Text] = ()


def render(estimate: Estimate, width: int) -> RenderableType:
    """Return the estimate for a `rich.console.Console` of this width, in characters."""
    known = Table.grid(padding=(0, len(GAP)))
    for title, text in head(estimate).items():
        known.add_row(Text(f"{title}:", no_wrap=True), Text(text))
    parts: list[RenderableType] = [known]
    rows = list(_rows(estimate))
    for first, last in _columns_that_fit(rows, width):
        parts += [Text(), _table(rows, first, last)]
    parts += [Text(), *(Text(line) for line in [disk(estimate), *_times(estimate)])]
    parts += [Text(line, style="yellow") for line in warnings(estimate)]
    return Group(*parts)


def _columns_that_fit(rows: Sequence[Row], width: int) -> Iterator[tuple[int, int]]:
    """Yield the first experiment of each table and the one after its last: as many as fit next to the titles."""
    titles = max(len(row.title) for row in rows)
    columns = list(zip(*(row.cells for row in rows if row.cells), strict=True))
    widths = [len(GAP) + max(map(len, column)) for column in columns]
    first = 0
    for last in range(1, len(widths) + 1):
        if last == len(widths) or titles + sum(widths[first : last + 1]) > width:
            yield first, last
            first = last


def _table(rows: Sequence[Row], first: int, last: int) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, len(GAP), 0, 0))
    table.add_column(no_wrap=True)
    for _ in range(first, last):
        table.add_column(justify="right", overflow="fold")
    for row in rows:
        table.add_row(Text(row.title, style="" if row.cells else "bold"), *row.cells[first:last])
    return table


def _rows(estimate: Estimate) -> Iterator[Row]:
    names = list(dict.fromkeys([*estimate.predictions, *estimate.trainings]))
    yield Row("", [Text(name, style="bold") for name in names])
    trainings = [estimate.trainings.get(name) for name in names]
    for heading, own in _training_groups(estimate).items():
        yield Row(heading)
        for title, cell in own.items():
            yield Row(f"{INDENT}{title}", [_cell(cell, one) for one in trainings])
    if not estimate.predictions:
        return
    yield Row("Memory for prediction")
    predictions = [estimate.predictions.get(name) for name in names]
    for title, shown in _prediction_rows().items():
        yield Row(f"{INDENT}{title}", [_cell(shown, one) for one in predictions])


def _cell(shown: Cell, one: object | None) -> Text:
    text = NONE if one is None else shown(one)
    return text if isinstance(text, Text) else Text(text)


def _training_groups(estimate: Estimate) -> dict[str, dict[str, Cell]]:
    """Return the rows about trainings, by heading and title, with what gives their cells."""
    device = {"gpu": "GPU", "cpu": "process"}[estimate.machine.device]
    several = any(training.plan.processes > 1 for training in estimate.trainings.values())
    processes: dict[str, Cell] = {f"{device}{'s' if device == 'GPU' else 'es'}": lambda one: f"{one.plan.processes}"}
    on_folds: dict[str, Cell] = {
        "trainings (folds)": lambda one: f"{one.count:,}",
        "loads of the model": lambda one: f"{one.loads:,}",
    }
    return {
        "Training": {
            "weights trained": lambda one: count(one.trained),
            "share of all weights": lambda one: f"{100 * one.trained / estimate.shape.total:.3g} %",
            **(processes if several else {}),
            **(on_folds if any(training.count > 1 for training in estimate.trainings.values()) else {}),
            "optimizer steps": lambda one: f"{one.reached.steps:,}",
            "warm-up steps": lambda one: f"{one.reached.warmup_steps:,}",
            "highest learning rate": _highest_rate,
            "last learning rate": lambda one: rate(one.reached.last),
            "time": lambda one: "unknown" if one.speed is None else duration(one.seconds),
        },
        f"Memory for training{f', each {device}' if several else ''}": {
            **{title: _part(key) for key, title in TRAINING_PARTS.items()},
            "total": lambda one: Text(byte_size(one.need), style="bold"),
            "result": lambda one: Text(VERDICTS[one.verdict] or "unknown", style=STYLES[one.verdict]),
            "with checkpointing": lambda one: _with_checkpointing(estimate, one, True),
            "without checkpointing": lambda one: _with_checkpointing(estimate, one, False),
        },
        "Disk for training": {
            "working checkpoint": lambda one: byte_size(one.disk.checkpoint),
            "most while training": lambda one: byte_size(one.disk.peak),
            "afterwards": lambda one: byte_size(one.disk.weights),
        },
    }


def _prediction_rows() -> dict[str, Cell]:
    return {
        **{title: _part(key) for key, title in PREDICTION_PARTS.items()},
        "total": lambda one: Text(byte_size(sum(one.memory.values())), style="bold"),
        "result": lambda one: Text(VERDICTS[one.verdict] or "unknown", style=STYLES[one.verdict]),
    }


def _part(key: str) -> Cell:
    return lambda one: byte_size(one.memory[key])


def _highest_rate(training: TrainingEstimate) -> str:
    reached = training.reached
    return rate(reached.highest) + (f" (not {rate(reached.peak)})" if reached.highest < reached.peak else "")


def _times(estimate: Estimate) -> list[str]:
    """Return where the times are from."""
    if all(training.speed is None for training in estimate.trainings.values()):
        return ["Time: no earlier training from which the speed is known"] if estimate.trainings else []
    return [f"Time of {name}: {time(training)}" for name, training in estimate.trainings.items()]


def _with_checkpointing(estimate: Estimate, training: TrainingEstimate, wanted: bool) -> str:
    assert estimate.train is not None
    plan = replace(training.plan, checkpointing=wanted)
    return byte_size(sum(training_memory(estimate.shape, plan.setup, plan.batch(estimate.train)).values()))
