"""The table of groups: each setting over its seeds, and the best setting by validation."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pandas as pd

from usertune.evaluation.choice import Choice, Validation, choice_of
from usertune.evaluation.groups import validation_column
from usertune.evaluation.recipe import CompareRecipe
from usertune.evaluation.statistics.intervals import mean_of_users
from usertune.evaluation.statistics.variance import variance_split
from usertune.tasks.metrics import Metric


def groups_table(recipe: CompareRecipe, primary: Metric, samples: pd.DataFrame, validation: Validation) -> pd.DataFrame:
    """Return one row for each setting of each group, over its seeds.

    The primary metric is the mean over seeds, and ``<name>_sd`` the standard deviation over seeds: of the means over
    users, as in ``summary.csv`` (with the interval of the mean over seeds in ``_low`` and ``_high``), and in
    ``<name>_micro`` of the values over all samples. ``sd_users``, ``sd_seeds`` and ``sd_residual`` are the square roots
    of `variance_split` of the metric of each user and seed. What
    `usertune.evaluation.choice` found on validation users is in the columns ``validation_...``: the loss, and, if some
    group is chosen by it, the primary metric with the numbers of users and of samples.

    Args:
        recipe: the groups, and what chooses their best settings.
        primary: the metric that is compared.
        samples: the rows of all experiments, of test users alone.
        validation: what was measured on validation users.

    Raises:
        UserError: what chooses a setting is missing.
    """
    by_user = samples.groupby(["user", "experiment"], sort=False)[primary.column].mean().unstack()
    over_all = samples.groupby("experiment")[primary.column].mean()
    counts = samples.groupby("experiment")["id"].count()
    rows = []
    for group, settings in recipe.groups.items():
        choice = choice_of(recipe, group, primary, validation)
        for text, names in settings.items():
            members = list(names)
            own, totals, over_users = by_user[members], over_all[members], by_user[members].mean()
            # The users whose adapters answer are no seeds.
            split = None if group in recipe.matrices else variance_split(own)
            found = mean_of_users(own.mean(axis=1).dropna(), recipe.confidence, primary.bounds)
            parts = (split.users, split.seeds, split.residual) if split else (None, None, None)
            row: dict[str, Any] = {
                "group": group,
                "setting": text,
                "experiments": " ".join(members),
                "seeds": len(members),
                "users": len(own),
                "samples": int(counts[members[0]]),
                primary.name: found.mean,
                f"{primary.name}_low": found.low,
                f"{primary.name}_high": found.high,
                f"{primary.name}_sd": over_users.std() if len(members) > 1 else None,
                f"{primary.name}_micro": totals.mean(),
                f"{primary.name}_micro_sd": totals.std() if len(members) > 1 else None,
            }
            row |= {
                f"sd_{name}": None if value is None else sqrt(value)
                for name, value in zip(("users", "seeds", "residual"), parts, strict=True)
            }
            row |= _chosen_by(recipe, group, text, primary, choice)
            rows.append(row)
    return pd.DataFrame(rows)


def _chosen_by(recipe: CompareRecipe, group: str, text: str, primary: Metric, choice: Choice | None) -> dict[str, Any]:
    """Return the last columns of a setting: what it has on validation users, and whether it is chosen."""
    how = recipe.select.get(group, "")
    own = choice.measured[text] if choice else None
    by_loss, by_accuracy = own if how == "loss" else None, own if how == "accuracy" else None
    found: dict[str, Any] = {
        "selected_by": how,
        "validation_loss": by_loss and by_loss.value,
        "validation_loss_sd": by_loss and by_loss.sd,
    }
    if "accuracy" in recipe.select.values():
        found |= {
            validation_column(primary): by_accuracy and by_accuracy.value,
            f"{validation_column(primary)}_sd": by_accuracy and by_accuracy.sd,
            "validation_users": by_accuracy and by_accuracy.users,
            "validation_samples": by_accuracy and by_accuracy.samples,
        }
    return {**found, "selected": choice and int(text == choice.best)}
