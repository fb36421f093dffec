"""The summary, rounded, for people."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from usertune.core.formatting import no_interval, percent
from usertune.evaluation.tables import records
from usertune.tasks.metrics import Metric


def markdown(summary: pd.DataFrame, metrics: Sequence[Metric], note: str) -> str:
    """Return the summary, rounded, as a Markdown table with a note on how to read it."""
    shown = _rounded(summary, metrics)
    shown["experiment"] = [f"`{name}`" for name in shown["experiment"]]
    sides = ["left", "left", *["right"] * (len(shown.columns) - 2)]
    table = shown.to_markdown(index=False, tablefmt="pipe", disable_numparse=True, colalign=sides)
    return f"{table}\n\n{note}\n"


def _rounded(summary: pd.DataFrame, metrics: Sequence[Metric]) -> pd.DataFrame:
    """Return the summary as people read it: every cell a text."""
    primary, *others = (metric for metric in metrics if metric.name in summary)
    header = ["experiment", "mode", "users", "samples", "parsed %", primary.heading, "difference to vanilla"]
    header += [metric.heading for metric in others]
    rows = []
    for row in records(summary):
        missing = f"[{no_interval(int(row['users']))}]"
        interval = primary.interval(row[f"{primary.name}_low"], row[f"{primary.name}_high"]) or missing
        gain = "" if pd.isna(row["difference_to_vanilla"]) else primary.difference(row["difference_to_vanilla"])
        if gain:
            gain += f" {primary.difference_interval(row['difference_low'], row['difference_high']) or missing}"
        cells = [row["experiment"], row["mode"], f"{row['users']:.0f}", f"{row['samples']:,.0f}"]
        cells += [percent(row["parse_rate"]), f"{primary.text(row[primary.name])} {interval}", gain]
        rows.append([*cells, *(metric.text(row[metric.name]) for metric in others)])
    return pd.DataFrame(rows, columns=header)
