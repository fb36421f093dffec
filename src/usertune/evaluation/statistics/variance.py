"""How much of the variation of a metric is between users, and how much between seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class VarianceSplit:
    """Variance components of one value for each user and seed.

    Attributes:
        users: variance between users, the same for all seeds.
        seeds: variance between seeds, the same for all users.
        residual: the rest: seeds that help some users and hurt others, and the chance of a user's few samples.
    """

    users: float
    seeds: float
    residual: float

    @property
    def shares(self) -> tuple[float, float, float] | None:
        """Users', seeds' and residual share of the sum; None if nothing varies."""
        total = self.users + self.seeds + self.residual
        return (self.users / total, self.seeds / total, self.residual / total) if total > 0 else None


def variance_split(values: pd.DataFrame) -> VarianceSplit | None:
    """Return the variance components of a table with a row for each user and a column for each seed.

    The model is two-way random effects without replication: value = mean + user + seed + residual. The components are
    the ANOVA estimators, which equate mean squares with their expectations (Searle, Casella & McCulloch 1992, Variance
    Components, chapter 4). With U users and S seeds::

        residual = MS_residual
        users = (MS_users - MS_residual) / S
        seeds = (MS_seeds - MS_residual) / U

    Negative estimates are set to zero.

    Args:
        values: shape (U, S).

    Returns:
        The components; None with fewer than two users or seeds, or if a value is missing.
    """
    users, seeds = values.shape
    if users < 2 or seeds < 2 or values.isna().to_numpy().any():
        return None
    table = values.to_numpy(dtype=float)
    of_users, of_seeds = table.mean(axis=1), table.mean(axis=0)
    rest = table - of_users[:, None] - of_seeds[None, :] + table.mean()
    residual = float(np.sum(rest**2) / ((users - 1) * (seeds - 1)))
    mean_square_users = seeds * float(np.var(of_users, ddof=1))
    mean_square_seeds = users * float(np.var(of_seeds, ddof=1))
    return VarianceSplit(
        users=max((mean_square_users - residual) / seeds, 0.0),
        seeds=max((mean_square_seeds - residual) / users, 0.0),
        residual=residual,
    )
