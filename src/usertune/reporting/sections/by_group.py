"""Rows of the report's section on groups of samples: those that the data name, such as apps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from usertune.core.formatting import MINUS
from usertune.evaluation.paper import MISSING
from usertune.evaluation.paper_tables import of_groups
from usertune.evaluation.table_names import ABOUT
from usertune.evaluation.tables import records
from usertune.tasks.metrics import Metric


def by_group_shown(
    names: Sequence[str], primary: Metric, by_group: pd.DataFrame, samples: pd.DataFrame
) -> dict[str, Any] | None:
    """Return what the template shows of the groups that the data name; None if they name none.

    Args:
        names: the experiments, in the order of the study.
        primary: the primary metric.
        by_group: the table of that name, see `usertune.evaluation.by_group.by_group_table`.
        samples: the table of samples, whose columns beginning with `ABOUT` are what the data name.

    Returns:
        ``heads`` of the columns before those of the experiments, ``rows`` with a text and then cells (``text``, and
        whether it is the ``best``), and a ``note`` on what they are.
    """
    keys = [str(column).removeprefix(ABOUT) for column in samples if str(column).startswith(ABOUT)]
    own = by_group[by_group["by"].isin(keys)]
    if own.empty:
        return None
    paper = of_groups(own, names, primary)
    titles = {column.name: column.title for column in paper.columns}
    rows = []
    for place, row in enumerate(records(paper.frame)):
        cells = [{"text": _text(row[name]), "best": place in paper.bold.get(name, ())} for name in list(titles)[1:]]
        rows.append([row[next(iter(titles))], *cells])
    return {"heads": list(titles.values())[: -len(names)], "rows": rows, "note": paper.note}


def _text(number: str) -> str:
    return "\N{EN DASH}" if number == MISSING else number.replace("-", MINUS)
