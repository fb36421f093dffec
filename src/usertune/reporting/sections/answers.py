"""The report's table of forms: how each experiment's answers name their point, or why they could not be read."""

from __future__ import annotations

from typing import Any

import pandas as pd

from usertune.evaluation.tables import ComparisonDesign
from usertune.tasks.points.forms import FORMS, REASONS


def form_rows(design: ComparisonDesign, samples: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row for each form or reason that occurs, those that were read first, with a count an experiment.

    Args:
        samples: the table ``samples.csv``, with the columns ``experiment`` and ``form``.
    """
    counts = samples.groupby(["form", "experiment"]).size()
    present = set(samples["form"])
    known = {**FORMS, **REASONS}
    names = [name for name in known if name in present] + sorted(present - known.keys())
    return [
        {
            "form": name,
            "meaning": known.get(name, "").replace("`", ""),
            "read": name in FORMS,
            "counts": [f"{int(counts.get((name, experiment), 0)):,}" for experiment in design.names],
        }
        for name in names
    ]
