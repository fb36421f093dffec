"""What figures show of a study with groups: each group as one experiment, over the seeds of its chosen setting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from usertune.evaluation import table_names
from usertune.evaluation.groups import chosen_experiments
from usertune.evaluation.recipe import ComparisonDesign, Experiment
from usertune.evaluation.tables import read_table, records

Members = Mapping[str, tuple[str, ...]]


def members_of(design: ComparisonDesign, tables: Path) -> dict[str, tuple[str, ...]]:
    """Return ``{name in figures: its experiments}``, in the order of the study.

    An experiment in no group shows itself. A group shows the seeds of its chosen, or only, setting; if none is chosen,
    each of its settings.
    """
    if not design.groups:
        return {name: (name,) for name in design.names}
    chosen = chosen_experiments(design, read_table(tables / table_names.GROUPS))
    found: dict[str, tuple[str, ...]] = {}
    for item in design.experiments:
        if item.group is None:
            found[item.name] = (item.name,)
        elif item.group in chosen:
            found[item.group] = chosen[item.group]
        else:
            settings = design.groups[item.group].items()
            found |= {f"{item.group}, {setting}": names for setting, names in settings}
    return found


def shown_experiments(design: ComparisonDesign, members: Members) -> tuple[Experiment, ...]:
    """Return the experiments of figures."""
    made = {item.name: item for item in design.experiments}
    return tuple(
        Experiment(name=name, mode=made[own[0]].mode, scope=made[own[0]].scope) for name, own in members.items()
    )


def merged(table: pd.DataFrame, name: str, members: Members, groups: pd.DataFrame | None) -> pd.DataFrame:
    """Return a table of the comparison with the experiments of figures.

    The numbers of an experiment with several members are the means over them, for each user where there are users; its
    samples are those of all members.

    Args:
        table: the table.
        name: name of its file.
        members: see `members_of`.
        groups: the table of groups, with the intervals of the means over seeds; None without groups.
    """
    if groups is None:
        return table
    of_setting = {str(row["experiments"]): row for row in records(groups)}
    pieces = []
    for label, own in members.items():
        piece = table[table["experiment"].isin(own)]
        if own != (label,) and name != table_names.SAMPLES:
            numbers = [str(column) for column in piece.select_dtypes("number")]
            by_user = piece["user"] if "user" in piece else pd.Series(0, index=piece.index)
            means = piece.groupby(by_user, sort=False)[numbers].mean()
            piece = piece.groupby(by_user, sort=False).first()
            piece[numbers] = means
            row = of_setting[" ".join(own)]
            ends = [end for end in row if end.endswith(("_low", "_high")) and end in piece]
            piece = piece.assign(**{end: row[end] for end in ends})
            piece = piece.reset_index(names="user") if "user" in table else piece
        pieces.append(piece.assign(experiment=label))
    return pd.concat(pieces, ignore_index=True)
