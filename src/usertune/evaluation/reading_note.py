"""The paragraph that says what the numbers of a summary are."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from usertune.core.formatting import number, percent
from usertune.evaluation.recipe import ComparisonDesign
from usertune.tasks.catalogue import get_task
from usertune.tasks.metrics import Metric


def reading_note(recipe: ComparisonDesign, summary: pd.DataFrame) -> str:
    """Return a paragraph that explains the numbers of the summary."""
    primary = recipe.metrics[0]
    level = f"{100 * summary['confidence'].iloc[0]:g} %"
    samples, users = int(summary["samples"].iloc[0]), int(summary["users"].iloc[0])
    unit = "in percentage points" if primary.unit == "%" else f"of {primary.title}"
    parts = (
        f"{samples:,} samples of {users} user{'' if users == 1 else 's'}.",
        *(get_task(task).note(recipe.thresholds[0]) for task in recipe.tasks),
        _of_parts(recipe.metrics, summary, samples),
        _of_users(summary),
        f"Each number is a mean over users, with equal weight for each. In brackets: {level} confidence intervals over "
        f"users (t with users - 1 degrees of freedom). Differences are {unit}, paired on the same samples.",
    )
    return " ".join(part for part in parts if part)


def _of_users(summary: pd.DataFrame) -> str:
    """Return the sentence on how unequal the users are; empty if there is one."""
    effective, largest = summary["effective_users"].iloc[0], summary["largest_share"].iloc[0]
    if summary["users"].iloc[0] < 2:
        return ""
    return (
        f"The largest user has {percent(largest)} % of the samples; as a mean over samples, that is worth "
        f"{number(effective)} users of equal size."
    )


def _of_parts(metrics: Sequence[Metric], summary: pd.DataFrame, samples: int) -> str:
    """Return the sentence on metrics that do not cover all samples: which ones, and how many samples they are over."""
    titles: dict[str, list[str]] = {}
    for metric in metrics:
        column = f"{metric.name}_samples"
        # Unparsed answers may have no value too, so the experiment with the fewest of them says how many it applies to.
        if column in summary and (count := int(summary[column].max())) < samples:
            over = metric.over or f"samples to which {metric.task} applies"
            titles.setdefault(f"{count:,} {over}", []).append(metric.title)
    if not titles:
        return ""
    found = "; ".join(f"{', '.join(names)}: over {over}" for over, names in titles.items())
    return f"{found[0].upper()}{found[1:]}."
