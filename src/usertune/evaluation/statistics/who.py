"""Who gains and who loses: users beyond their own noise, and the worst tenth of users."""

from __future__ import annotations

import math

import pandas as pd

from usertune.evaluation.statistics.intervals import NO_VARIATION

LEVEL = 0.05
WORST = 0.1


def helped_and_hurt(differences: pd.Series, users: pd.Series, higher_is_better: bool) -> tuple[int, int]:
    """Return how many users gain, and how many lose, more than the chance of their own samples explains.

    Each user's samples that got better and that got worse are compared by the exact two-sided sign test at `LEVEL`
    (for hits and misses, McNemar 1947, Psychometrika 12:153, in its exact form). Without any effect, each of the two
    counts is at most 2.5 % of users on average.

    Args:
        differences: difference of each sample, shape (N,); NaN where there is none.
        users: the user of each sample, shape (N,).
        higher_is_better: whether a positive difference is a gain.
    """
    # Imported here because the import takes a while. That of scipy.stats, for the same numbers, takes far longer.
    from scipy.special import bdtr

    up = (differences > NO_VARIATION).groupby(users, sort=False, observed=True).sum()
    down = (differences < -NO_VARIATION).groupby(users, sort=False, observed=True).sum()
    fewer = pd.concat([up, down], axis=1).min(axis=1)
    clear = 2 * bdtr(fewer, up + down, 0.5) < LEVEL
    rises, falls = int((clear & (up > down)).sum()), int((clear & (down > up)).sum())
    return (rises, falls) if higher_is_better else (falls, rises)


def worst_decile(values: pd.Series, higher_is_better: bool) -> float:
    """Return the mean over the worst tenth of users, at least one of them.

    Args:
        values: one number a user, shape (G,), G >= 1.
        higher_is_better: which users are the worst.
    """
    ordered = values.sort_values(ascending=higher_is_better)
    return float(ordered.iloc[: max(1, math.ceil(WORST * len(ordered)))].mean())
