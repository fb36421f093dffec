"""The report's table of forms: in which form answers were read, or why they could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from usertune.evaluation.recipe import ComparisonDesign


def form_rows(
    design: ComparisonDesign, forms: Mapping[str, str], reasons: Mapping[str, str], samples: pd.DataFrame
) -> list[dict[str, Any]]:
    """Return one row for each form and then for each reason that occurs, with a count for each experiment.

    Args:
        design: the experiments.
        forms, reasons: the task's forms of answers, and its reasons why an answer is unparsed, with what they mean.
        samples: the table ``samples.csv``, with the columns ``experiment`` and ``form``.
    """
    counts = samples.groupby(["form", "experiment"]).size()
    present = set(samples["form"])
    known = {**forms, **reasons}
    names = [name for name in known if name in present] + sorted(present - known.keys())
    return [
        {
            "form": name,
            "meaning": known.get(name, "").replace("`", ""),
            "read": name in forms,
            "counts": [f"{int(counts.get((name, experiment), 0)):,}" for experiment in design.names],
        }
        for name in names
    ]
