"""The table of groups: each setting over its seeds, and the best setting by validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import pandas as pd

from usertune.core.errors import UserError
from usertune.evaluation.recipe import CompareRecipe
from usertune.evaluation.statistics.intervals import Estimate, estimate
from usertune.evaluation.statistics.variance import variance_split
from usertune.tasks.metrics import Metric


def groups_table(
    recipe: CompareRecipe, primary: Metric, samples: pd.DataFrame, losses: Mapping[str, float | None]
) -> pd.DataFrame:
    """Return one row for each setting of each group, over its seeds.

    The primary metric is the mean over seeds, and ``<name>_sd`` the standard deviation over seeds: of the values over
    all samples, as in ``summary.csv`` (with the interval of the mean over seeds in ``_low`` and ``_high``), and in
    ``over_users`` of the means over users. ``sd_users``, ``sd_seeds`` and
    ``sd_residual`` are the square roots of `variance_split` of the metric of each user and seed.

    Args:
        recipe: the groups, and what chooses their best settings.
        primary: the metric that is compared.
        samples: the rows of all experiments.
        losses: experiment -> validation loss, for the groups that are chosen by it.

    Raises:
        UserError: a validation loss that is needed is missing.
    """
    by_user = samples.groupby(["user", "experiment"], sort=False)[primary.column].mean().unstack()
    over_all = samples.groupby("experiment")[primary.column].mean()
    counts = samples.groupby("experiment")["id"].count()
    rows = []
    for group, settings in recipe.groups.items():
        means = _mean_losses(group, settings, losses) if group in recipe.select else {}
        best = min(means, key=lambda text: means[text]) if means else None
        for text, names in settings.items():
            members = list(names)
            own, totals, over_users = by_user[members], over_all[members], by_user[members].mean()
            split = variance_split(own)
            found = _estimate(recipe, primary, samples[samples["experiment"].isin(members)])
            parts = (split.users, split.seeds, split.residual) if split else (None, None, None)
            row: dict[str, Any] = {
                "group": group,
                "setting": text,
                "experiments": " ".join(members),
                "seeds": len(members),
                "users": len(own),
                "samples": int(counts[members[0]]),
                primary.name: totals.mean(),
                f"{primary.name}_low": found.low,
                f"{primary.name}_high": found.high,
                f"{primary.name}_sd": totals.std() if len(members) > 1 else None,
                "over_users": over_users.mean(),
                "over_users_sd": over_users.std() if len(members) > 1 else None,
            }
            row |= {
                f"sd_{name}": None if value is None else sqrt(value)
                for name, value in zip(("users", "seeds", "residual"), parts, strict=True)
            }
            of_setting = pd.Series([losses[name] for name in members] if means else [], dtype=float)
            row |= {
                "selected_by": recipe.select.get(group, ""),
                "validation_loss": means.get(text),
                "validation_loss_sd": of_setting.std() if len(of_setting) > 1 else None,
                "selected": None if best is None else int(text == best),
            }
            rows.append(row)
    return pd.DataFrame(rows)


def _estimate(recipe: CompareRecipe, primary: Metric, samples: pd.DataFrame) -> Estimate:
    """Return the mean of the primary metric over seeds and samples; its interval is that of the summary."""
    by_sample = samples.groupby(["user", "id"], sort=False)[primary.column].mean().reset_index()
    return estimate(by_sample[primary.column], by_sample, recipe.confidence, primary.bounds)


def _mean_losses(
    group: str, settings: Mapping[str, Sequence[str]], losses: Mapping[str, float | None]
) -> dict[str, float]:
    missing = [name for names in settings.values() for name in names if losses.get(name) is None]
    if missing:
        raise UserError(
            f"{group}: its best setting is chosen by validation loss, and the training of {missing[0]} has none; "
            "give the study validation users, or set select: none"
        )
    return {
        text: sum(loss for name in names if (loss := losses[name]) is not None) / len(names)
        for text, names in settings.items()
    }
