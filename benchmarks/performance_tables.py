"""The tables of docs/performance.md, made from the stored results; `write_figures.py` writes them into the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapes

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Comparison:
    """A row: what is compared with what, and where its ratio is.

    Attributes:
        stored: name of the result.
        key: of the ratio in what was measured.
        goal: what it was meant to be; it may not be.
    """

    what: str
    against: str
    stored: str
    key: str
    goal: str


TRL = "TRL's SFTTrainer at its best"
TRL_AS_INSTALLED = "TRL's SFTTrainer as installed"
SWIFT = "ms-swift's SFT at its best"
REFERENCE = "the reference's way"
ONE_BY_ONE = "one sample at a time"
LORA, FULL = "training_speed-{}-lora", "training_speed-{}-full"
COMPARISONS = (
    Comparison("LoRA, speed", TRL, LORA.format("proportional"), "speed_over_trl", "at least 1.5"),
    Comparison("LoRA, speed", REFERENCE, LORA.format("proportional"), "speed_over_reference", "at least 2"),
    Comparison("LoRA, speed", SWIFT, LORA.format("proportional"), "speed_over_swift", ""),
    Comparison("LoRA, peak memory", REFERENCE, LORA.format("proportional"), "memory_over_reference", "at most 0.5"),
    Comparison("LoRA, peak memory", TRL, LORA.format("proportional"), "memory_over_trl", ""),
    Comparison("full, speed", TRL, FULL.format("proportional"), "speed_over_trl", "at least 1.4"),
    Comparison("full, speed", SWIFT, FULL.format("proportional"), "speed_over_swift", ""),
    Comparison("full, speed", REFERENCE, FULL.format("proportional"), "speed_over_reference", ""),
    Comparison("LoRA, speed", TRL, LORA.format("vocabulary"), "speed_over_trl", "at least 5"),
    Comparison("LoRA, speed", TRL_AS_INSTALLED, LORA.format("vocabulary"), "speed_over_trl_as_installed", "at least 5"),
    Comparison("LoRA, speed", SWIFT, LORA.format("vocabulary"), "speed_over_swift", ""),
    Comparison("LoRA, speed", REFERENCE, LORA.format("vocabulary"), "speed_over_reference", ""),
    Comparison("LoRA, peak memory", REFERENCE, LORA.format("vocabulary"), "memory_over_reference", ""),
    Comparison("LoRA, speed", TRL, LORA.format("true-2b"), "speed_over_trl", "at least 1.3"),
    Comparison("LoRA, peak memory", TRL, LORA.format("true-2b"), "memory_over_trl", "at most 0.8"),
    Comparison("prediction, speed", ONE_BY_ONE, "prediction_speed-proportional", "speed_over_one_by_one", "at least 3"),
    Comparison("prediction, speed", ONE_BY_ONE, "prediction_speed-demo", "speed_over_one_by_one", "at least 8"),
)


def ratios(results: Path) -> str:
    """Return the table of all comparisons."""
    rows = []
    for one in COMPARISONS:
        result = read(results, one.stored)
        value = result["measured"].get(one.key) if result else None
        shape = one.stored.split("-", 1)[1].removesuffix("-lora").removesuffix("-full")
        rows.append([one.what, one.against, shape, spread(value), one.goal, agreement(result), when(result)])
    return table(["what", "against", "shape", "ratio", "goal", "checked", "measured"], rows)


def sides(results: Path) -> str:
    """Return the table of what each side reached, with its settings."""
    rows = []
    for stored in dict.fromkeys(one.stored for one in COMPARISONS):
        result = read(results, stored)
        name = f"`{stored}`"
        if result is None:
            rows.append([name, NOT_MEASURED, "", "", ""])
        elif "sides" in result["measured"]:
            for side, found in result["measured"]["sides"].items():
                peak = f"{found['peak_mb']['median']:,.0f} MB ({found['before_mb']['median']:,.0f} MB)"
                rows.append([name, side, settings(found["settings"]), spread(found["samples_per_second"]), peak])
            rows += [[name, side, reason, "", ""] for side, reason in result["measured"]["skipped"].items()]
        else:
            size = result["measured"]["batch_size"]
            for side, rate in result["measured"]["samples_per_second"].items():
                how = f"batches of {size}" if side == "usertune" else ONE_BY_ONE
                rows.append([name, side.replace("_", " "), how, spread(rate), ""])
    return table(["result", "side", "settings", "samples/s", "peak memory (before training)"], rows)


def sizes(results: Path) -> str:
    """Return the table of the shapes, with the ratios that were counted, not measured."""
    del results
    rows = []
    for name, shape in shapes.SHAPES.items():
        if name == "tiny":
            continue
        parts = shapes.flops(shape.differences, shapes.VISUAL_TOKENS)
        rows.append([
            f"`{name}`", shape.about, *(f"{parts[part] / parts['body']:.2f}" for part in ("vision", "head")),
        ])  # fmt: skip
    return table(["shape", "what it is", "vision / body", "head / body"], rows)


def starts(results: Path) -> str:
    """Return the table of processor's seconds of the --help of each program."""
    result = read(results, "start_up")
    costs = result["measured"]["help_cpu_seconds"] if result else {}
    rows = [[name, spread(cost)] for name, cost in sorted(costs.items(), key=lambda item: -item[1]["median"])]
    return table(["program", "s"], rows or [[NOT_MEASURED, ""]])


TABLES: Mapping[str, Callable[[Path], str]] = {"ratios": ratios, "sides": sides, "shapes": sizes, "starts": starts}


def read(results: Path, stored: str) -> dict[str, Any] | None:
    """Return a stored result; None if there is none.

    Raises:
        ValueError: it is of a tiny run.
    """
    path = results / f"{stored}.json"
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if result["tiny"]:
        raise ValueError(f"{path.name} is the result of a tiny run, which says nothing")
    return result


def spread(value: Mapping[str, float] | None) -> str:
    """Return a median with the smallest and the largest value."""
    if value is None:
        return NOT_MEASURED
    return f"{value['median']:g} ({value['smallest']:g} to {value['largest']:g}; {value['rounds']} rounds)"


def settings(values: Mapping[str, Any]) -> str:
    """Return the settings of a training in words."""
    checkpointing = "checkpointing" if values["gradient_checkpointing"] else "no checkpointing"
    return f"micro-batch {values['micro_batch_size']}, {checkpointing}, {values['dataloader_num_workers']} workers"


def agreement(result: dict[str, Any] | None) -> str:
    """Return how far the sides' losses or answers are from each other."""
    if result is None:
        return ""
    if "losses" not in result["measured"]:
        return "answers are equal"
    found = result["measured"]["losses"]
    return f"losses within {max(found['largest_difference'].values()):.0e}"


def when(result: dict[str, Any] | None) -> str:
    """Return date, cores and load of a measurement."""
    if result is None:
        return ""
    machine = result["machine"]
    return f"{result['date']}, {machine['cores']} cores, load {machine['load_average_before']:g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
