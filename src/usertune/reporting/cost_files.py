"""The files of the table of costs: for programs, for people and for papers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from usertune.core import formatting
from usertune.core.files import write_text
from usertune.evaluation import table_names
from usertune.evaluation.paper import MISSING, Column, Paper, latex_table, markdown_table, plain
from usertune.evaluation.tables import records
from usertune.tasks.metrics import Metric

NOTE = (
    "Hours: wall time of training, over all attempts, and of generating the answers to the test samples, without "
    "loading models; jobs that ran at once count each. GPU hours: hours times the GPUs held. Builds on: experiments "
    "whose trained weights it uses; their hours are not part of its own. Gain: {gain} over the baseline, by hours of "
    "training, including those that it builds on."
)
OF_MONEY = "Cost: its own GPU hours, at the price in the study."
# Digits of the smallest number of a column.
SIGNIFICANT = 2
MOST_DIGITS = 6
# Of the fingerprint in the column of provenance.
PROVENANCE_DIGITS = 16
GIB = 2**30


def write_costs(table: pd.DataFrame, primary: Metric, folder: Path, fingerprint: str) -> list[Path]:
    """Write the table of costs, as `usertune.reporting.cost.cost_table` returns it, as CSV, Markdown and LaTeX.

    Args:
        table: the costs.
        primary: the metric of the gain.
        folder: where to write.
        fingerprint: that of the report that the table belongs to, which is in its manifest.
    """
    paper = of_costs(table, primary)
    texts = {
        table_names.COST: table.assign(provenance=fingerprint[:PROVENANCE_DIGITS]).to_csv(
            index=False, lineterminator="\n"
        ),
        table_names.COST_MD: markdown_table(paper),
        table_names.COST_TEX: f"% report: {fingerprint}\n{latex_table(paper)}",
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def of_costs(table: pd.DataFrame, primary: Metric) -> Paper:
    """Return the costs for people; columns without any number are left out."""
    currency = table["currency"].iloc[0] if "currency" in table else ""
    numbers = [
        ("training_hours", "training (h)", 1.0),
        ("prediction_hours", "answers (h)", 1.0),
        ("gpu_hours", "GPU hours", 1.0),
        ("cpu_hours", "hours without GPU", 1.0),
        ("kwh", "GPU energy (kWh)", 1.0),
        ("training_samples_per_second", "samples trained / s", 1.0),
        ("answers_per_second", "answers / s", 1.0),
        ("peak_memory_bytes", "peak memory (GiB)", 1 / GIB),
        ("trainable_parameters", "trained weights (M)", 1e-6),
        ("trained_tokens", "tokens trained (k)", 1e-3),
        ("prompt_tokens", "tokens asked (k)", 1e-3),
        ("generated_tokens", "tokens answered (k)", 1e-3),
        ("builds_on_hours", "builds on (h)", 1.0),
        ("builds_on_gpu_hours", "builds on (GPU hours)", 1.0),
        ("points_per_gpu_hour", "gain / GPU hour", 1.0),
        ("points_per_hour", "gain / hour", 1.0),
        ("money", f"cost ({currency})", 1.0),
    ]
    frame = pd.DataFrame({"experiment": table["experiment"]})
    columns = [Column("experiment", "experiment")]
    for name, title, scale in numbers:
        if name in table and table[name].notna().any():
            frame[name] = _texts(table[name].astype(float) * scale)
            columns.append(Column(name, title, number=True))
    unit = "points" if primary.unit == "%" else primary.unit
    gain = f"{unit} of {primary.title}" if unit else primary.title
    said = [(row["experiment"], row["builds_on"], row["note"]) for row in records(table)]
    about = [f"{name} builds on {others}." for name, others, _ in said if others]
    about += [f"{name}: {note}." for name, _, note in said if note]
    return Paper(frame, columns, " ".join([NOTE.format(gain=gain), *([OF_MONEY] if currency else []), *about]))


def cost_shown(table: pd.DataFrame, primary: Metric) -> dict[str, Any]:
    """Return what the template of the report shows of the costs, in the cells of `of_costs`."""
    paper = of_costs(table, primary)
    others = [column for column in paper.columns if column.name != "experiment"]
    rows = [
        {"experiment": row["experiment"], "cells": [_cell(row[column.name]) for column in others]}
        for row in records(paper.frame)
    ]
    return {"heads": [column.title for column in others], "rows": rows, "note": paper.note}


def _cell(text: str) -> str:
    return "\N{EN DASH}" if text == MISSING else text.replace("-", formatting.MINUS)


def _texts(values: pd.Series) -> list[str]:
    """Return numbers with as many digits as the smallest needs for `SIGNIFICANT` ones."""
    smallest = min((abs(value) for value in values.dropna() if value), default=1.0)
    digits = SIGNIFICANT - 1 - math.floor(math.log10(smallest))
    return [plain(value, min(max(digits, 0), MOST_DIGITS)) for value in values]
