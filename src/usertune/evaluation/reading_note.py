"""The paragraph that says what the numbers of a summary are."""

from __future__ import annotations

import pandas as pd

from usertune.evaluation.recipe import ComparisonDesign
from usertune.tasks.catalogue import get_task


def reading_note(recipe: ComparisonDesign, summary: pd.DataFrame) -> str:
    """Return a paragraph that explains the numbers of the summary."""
    primary = recipe.metrics[0]
    level = f"{100 * summary['confidence'].iloc[0]:g} %"
    samples, users = int(summary["samples"].iloc[0]), int(summary["users"].iloc[0])
    unit = "in percentage points" if primary.unit == "%" else f"of {primary.title}"
    parts = (
        f"{samples:,} samples of {users} user{'' if users == 1 else 's'}.",
        get_task(recipe.task).note(recipe.thresholds[0]),
        f"In brackets: {level} confidence intervals, robust to clusters of samples by user (CR1, t with users - 1 "
        f"degrees of freedom). Differences are {unit}, paired on the same samples, and not adjusted for several "
        "comparisons.",
    )
    return " ".join(part for part in parts if part)
