"""Confidence intervals over few and unequal users (docs/statistics.md says how well each one covers)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from usertune.evaluation.statistics.sign_flip import studentised_interval

# A standard error below this is rounding noise around zero, as a fraction of the largest value (and of 1).
NO_VARIATION = 1e-12
# Two users say nothing of how users vary.
FEWEST_USERS = 3


@dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval; ``low`` and ``high`` are None where no interval is defined."""

    mean: float
    low: float | None
    high: float | None


def by_user(values: pd.Series, users: pd.Series) -> pd.DataFrame:
    """Return the ``sum``, ``count`` and ``mean`` of each user's values, of the users who have any.

    Samples of one user share screens, apps and habits, so they are not independent; users are. All intervals start
    from this table.

    Args:
        values: one number a sample, shape (N,); NaN where a sample has none.
        users: the user of each sample, shape (N,).
    """
    found = values.groupby(users, sort=False, observed=True).agg(["sum", "count"])
    found = found[found["count"] > 0]
    return found.assign(mean=found["sum"] / found["count"])


def effective_users(counts: Sequence[float]) -> float:
    """Return the number of equal users whose mean over samples would be as uncertain: 1 / sum of squared shares.

    Kish 1965, Survey Sampling, section 8.2; Carter, Schnepel & Steigerwald 2017, Rev. Econ. Stat. 99:698 for clusters.

    Args:
        counts: samples of each user, shape (G,).
    """
    shares = np.asarray(counts, dtype=float) / np.sum(counts)
    return float(1 / np.sum(shares**2))


def mean_of_users(values: pd.Series, confidence: float, bounds: tuple[float, float]) -> Estimate:
    """Return the mean over users with Student's t interval, with one degree of freedom less than users.

    Args:
        values: one number a user, such as the mean of their samples, shape (G,), G >= 1.
        confidence: level between 0 and 1, such as 0.95.
        bounds: the interval is clipped to these values, the smallest and the largest that a mean can take.

    Returns:
        The estimate. It has no interval with fewer than `FEWEST_USERS` users, and none when users do not vary at all
        (for example, if every answer is a miss): the formula would claim full certainty.
    """
    mean, count = math.fsum(values) / len(values), len(values)
    if count < FEWEST_USERS or _is_constant(values):
        return Estimate(mean, None, None)
    half = _t_quantile(confidence, count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
    return Estimate(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]))


def mean_of_samples(users: pd.DataFrame, confidence: float, bounds: tuple[float, float]) -> Estimate:
    """Return the mean over samples, in which a user counts as often as they have samples.

    The interval of a fraction is that of Bell & McCaffrey on the logit scale (see `_fraction`); of other numbers it is
    the inverted sign-flip test (see `usertune.evaluation.statistics.sign_flip.studentised_interval`). Both cover what
    they promise where one user holds a third of all samples, which cluster-robust intervals with CR1 do not
    (docs/statistics.md).

    Args:
        users: see `by_user`.
        confidence: level between 0 and 1.
        bounds: smallest and largest value of a sample.

    Returns:
        The estimate, without an interval in the same cases as `mean_of_users`, and where the sign-flip test of so few
        users rejects nothing at this level.
    """
    sums, counts = users["sum"].to_numpy(dtype=float), users["count"].to_numpy(dtype=float)
    mean = math.fsum(sums) / float(counts.sum())
    if len(users) < FEWEST_USERS or _is_constant(users["mean"]):
        return Estimate(mean, None, None)
    ends = _fraction(sums, counts, confidence) if bounds == (0, 1) else None
    return Estimate(mean, *(ends or studentised_interval(sums, counts, confidence, bounds)))


def _fraction(sums: np.ndarray, counts: np.ndarray, confidence: float) -> tuple[float, float] | None:
    """Return the interval of a fraction over samples: CR2 with Bell-McCaffrey degrees of freedom, on the logit scale.

    With u_g = S_g - n_g m (S_g hits of n_g samples of user g, N samples in all, m = sum S_g / N), h_g = n_g / N and
    a_g = 1 / sqrt(1 - h_g), the squared standard error of m is sum (a_g u_g)^2 / N^2. Its degrees of freedom are
    (tr B)^2 / sum B^2 with B_gk = [g = k] a_g^2 n_g / N^2 - a_g n_g a_k n_k / N^3 (Bell & McCaffrey 2002, Survey
    Methodology 28:169; Imbens & Kolesar 2016, Rev. Econ. Stat. 98:701). The interval is Student's t around log(m / (1 -
    m)), whose standard error is that of m divided by m (1 - m), and back.
    """
    total = counts.sum()
    mean = sums.sum() / total
    if not 0 < mean < 1:
        return None
    factor = 1 / np.sqrt(1 - counts / total)
    error = math.sqrt(float(np.sum((factor * (sums - counts * mean)) ** 2))) / total
    spread = factor * counts
    matrix = np.diag(factor**2 * counts / total**2) - np.outer(spread, spread) / total**3
    freedom = float(np.trace(matrix) ** 2 / np.sum(matrix**2))
    centre = math.log(mean / (1 - mean))
    half = _t_quantile(confidence, freedom) * error / (mean * (1 - mean))
    return _logistic(centre - half), _logistic(centre + half)


def _logistic(value: float) -> float:
    return 0.5 * (1 + math.tanh(value / 2))


def _is_constant(values: pd.Series) -> bool:
    return bool(values.std(ddof=1) < NO_VARIATION * max(1.0, float(values.abs().max())))


def _t_quantile(confidence: float, freedom: float) -> float:
    # Imported here because it takes longer than the rest, and one user needs none.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2))
