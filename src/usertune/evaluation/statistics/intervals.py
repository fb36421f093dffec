"""Confidence intervals for samples that are not independent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

# A standard error below this is rounding noise around zero, as a fraction of the largest value (and of 1).
NO_VARIATION = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval; ``low`` and ``high`` are None where no interval is defined."""

    mean: float
    low: float | None
    high: float | None


def clusters(samples: pd.DataFrame) -> pd.Series:
    """Return the cluster of every sample: its user.

    Samples of one user share screens, apps and habits, so they are not independent; users are. Only this function
    defines the clusters.
    """
    return samples["user"]


def clustered_mean(values: pd.Series, groups: pd.Series, confidence: float, bounds: tuple[float, float]) -> Estimate:
    """Return the mean over samples with a confidence interval that is robust to clusters of samples.

    The mean is the constant of an ordinary least squares fit with the cluster-robust covariance CR1
    (Liang & Zeger 1986, Biometrika 73:13-22; Cameron & Miller 2015, J. Human Resources 50:317-372, eq. 11-12).
    With G clusters and N samples its standard error is::

        sqrt( G/(G-1) * (N-1)/(N-K) * sum over clusters of (sum of residuals in the cluster)^2 ) / N

    where statsmodels' small-sample factor (N-1)/(N-K) is 1, because a constant has K = 1. The interval is
    Student's t with G - 1 degrees of freedom.

    Args:
        values: one number a sample, shape (N,), N >= 1.
        groups: the cluster of each sample, shape (N,); see `clusters`.
        confidence: level between 0 and 1, such as 0.95.
        bounds: the interval is clipped to these values, the smallest and the largest that a mean can take.

    Returns:
        The estimate. It has no interval with fewer than two clusters, and none when the clusters show no
        variation at all (for example, if every answer is a miss): the formula would claim full certainty.
    """
    mean = math.fsum(values) / len(values)
    codes, names = pd.factorize(groups)
    if len(names) < 2:
        return Estimate(mean, None, None)
    # Imported here because the import takes a second and only this line needs it.
    from statsmodels.regression.linear_model import OLS

    fit = OLS(values.to_numpy(dtype=float), np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": codes, "use_correction": True, "df_correction": True}, use_t=True
    )
    if fit.bse[0] < NO_VARIATION * max(1.0, values.abs().max()):
        return Estimate(mean, None, None)
    low, high = fit.conf_int(alpha=1 - confidence)[0]
    return Estimate(mean, max(float(low), bounds[0]), min(float(high), bounds[1]))


def estimate(values: pd.Series, samples: pd.DataFrame, confidence: float, bounds: tuple[float, float]) -> Estimate:
    """Return the mean of a metric's ``values``, one a sample, over the samples that have one; see `clustered_mean`."""
    known = values.notna()
    return clustered_mean(values[known], clusters(samples[known]), confidence, bounds)


def paired_difference(
    values: pd.Series, baseline: pd.Series, samples: pd.DataFrame, confidence: float, bounds: tuple[float, float]
) -> Estimate:
    """Return how far the mean of ``values`` is above that of ``baseline`` on the same samples.

    The interval is that of the mean of the samples' own differences, which takes into account that both
    experiments find the same samples easy. It is not adjusted for looking at several pairs. ``bounds`` are those of a
    single value.
    """
    reach = bounds[1] - bounds[0]
    return estimate(values - baseline, samples, confidence, (-reach, reach))


def mean_of_users(values: pd.Series, confidence: float, bounds: tuple[float, float]) -> Estimate:
    """Return the mean over users with Student's t interval, with one degree of freedom less than users.

    Args:
        values: one number a user, such as the mean of their samples, shape (G,), G >= 1.
        confidence: level between 0 and 1, such as 0.95.
        bounds: the interval is clipped to these values.

    Returns:
        The estimate. It has no interval with fewer than two users, and none when users do not vary.
    """
    mean = math.fsum(values) / len(values)
    if len(values) < 2 or values.std() < NO_VARIATION * max(1.0, values.abs().max()):
        return Estimate(mean, None, None)
    # Imported here because the import takes a second.
    from statsmodels.stats.weightstats import DescrStatsW

    low, high = DescrStatsW(values.to_numpy(dtype=float)).tconfint_mean(alpha=1 - confidence)
    return Estimate(mean, max(float(low), bounds[0]), min(float(high), bounds[1]))
