"""The smallest gain that a study can detect."""

from __future__ import annotations

import math

POWER = 0.8
LEVEL = 0.05
# Assumed before a run: a hit becomes a miss, or a miss a hit, in so many of the samples.
CHANGED_SAMPLES = 0.25


def smallest_detectable(sd: float, users: int) -> float | None:
    """Return the smallest mean gain that a two-sided t test over users finds with a chance of `POWER` at `LEVEL`.

    It solves P(|T| > t) = power, where T is noncentral t with ``users - 1`` degrees of freedom and noncentrality
    gain * sqrt(users) / sd (Cohen 1988, Statistical Power Analysis, chapter 2; Miller 2024, arXiv 2411.00640, section
    5, with the normal approximation).

    Args:
        sd: standard deviation of the users' mean gains.
        users: number of users.

    Returns:
        The gain in the unit of ``sd``; None with fewer than three users, or if ``sd`` is zero.
    """
    if users < 3 or not sd > 0:
        return None
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    freedom = users - 1
    limit = float(t.ppf(1 - LEVEL / 2, freedom))

    def missing(shift: float) -> float:
        return float(nct.sf(limit, freedom, shift) + nct.cdf(-limit, freedom, shift)) - POWER

    # scipy has no value for noncentralities that are far too large.
    enough = 1.0
    while missing(enough) < 0:
        enough *= 1.5
    return float(brentq(missing, 0.0, enough)) * sd / math.sqrt(users)


def assumed_sd(sd_of_gains: float, samples: list[int]) -> float:
    """Return the standard deviation of users' measured gains in a fraction, before anything is measured.

    Users' true gains vary by ``sd_of_gains``; the chance of a user's n samples adds `CHANGED_SAMPLES` / n, because the
    paired difference of a hit is -1, 0 or 1 and has at most the variance that it is not 0.

    Args:
        sd_of_gains: standard deviation of users' true gains, a fraction.
        samples: number of samples of each user.
    """
    chance = sum(CHANGED_SAMPLES / count for count in samples) / len(samples)
    return math.sqrt(sd_of_gains**2 + chance)
