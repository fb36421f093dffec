"""Sign flips of users: an exact test of paired differences, an interval for means over samples, Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Up to so many users all patterns of signs are counted; beyond, so many are drawn.
MOST_EXACT = 20
DRAWN = 100_000
DRAWN_AT_ONCE = 10_000
SEED = 0
# Sums that differ by less, as a share of the sum of all sizes, are equal up to rounding.
ROUNDING = 1e-9
FEWEST_USERS = 3
# For intervals, which need several hundred p values each.
MOST_EXACT_FOR_INTERVALS = 14
DRAWN_FOR_INTERVALS = 9_999
HALVINGS = 50


@dataclass(frozen=True)
class SignFlip:
    """The outcome of `sign_flip_test`.

    Attributes:
        p: two-sided p value; None with fewer than `FEWEST_USERS` users.
        patterns: number of patterns of signs that were counted; 0 without a p value.
        exact: whether these are all patterns.
    """

    p: float | None
    patterns: int
    exact: bool


def sign_flip_test(differences: Sequence[float]) -> SignFlip:
    """Test whether users' mean differences are symmetric around zero, by flipping their signs.

    The p value is the share of the 2^G patterns of signs of the G users for which the mean is at least as far from zero
    as the one that was found (Fisher 1935, The Design of Experiments, section 21). It is exact: under the hypothesis
    that no user gains or loses, each pattern is equally likely. Beyond `MOST_EXACT` users, `DRAWN` patterns are drawn
    with a fixed seed, and the found one is counted among them (Phipson & Smyth 2010, Stat. Appl. Genet. Mol. Biol.
    9:39).

    Args:
        differences: one mean difference a user, shape (G,).
    """
    values = np.asarray(differences, dtype=float)
    count = len(values)
    if count < FEWEST_USERS:
        return SignFlip(None, 0, True)
    least = abs(values.sum()) - ROUNDING * np.abs(values).sum()
    if count <= MOST_EXACT:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        return SignFlip(float(np.mean(np.abs(sums) >= least)), len(sums), True)
    generator = np.random.default_rng(SEED)
    as_far = 0
    for _ in range(DRAWN // DRAWN_AT_ONCE):
        signs = generator.integers(0, 2, size=(DRAWN_AT_ONCE, count), dtype=np.int8) * 2 - 1
        as_far += int(np.sum(np.abs(signs @ values) >= least))
    return SignFlip((as_far + 1) / (DRAWN + 1), DRAWN, False)


def studentised_interval(
    sums: np.ndarray, counts: np.ndarray, confidence: float, bounds: tuple[float, float]
) -> tuple[float, float] | tuple[None, None]:
    """Return the interval of a mean over samples that the studentised sign-flip test of users does not reject.

    For a value m, user g has the residual u_g = S_g - n_g m (S_g is the sum of their n_g values, N samples in all). The
    statistic is U^2 / sum (u_g - h_g U)^2 with U = sum u_g and h_g = n_g / N; it is compared with those of all patterns
    of signs of the u_g. m belongs to the interval if more than 1 - confidence of the patterns have a statistic that is
    at least as large. This is the restricted wild cluster bootstrap with Rademacher weights, fully enumerated (Cameron,
    Gelbach & Miller 2008, Rev. Econ. Stat. 90:414; MacKinnon & Webb 2017, J. Applied Econometrics 32:233; Djogbenou,
    MacKinnon & Nielsen 2019, J. Econometrics 212:393). Beyond `MOST_EXACT_FOR_INTERVALS` users,
    `DRAWN_FOR_INTERVALS` patterns are drawn with a fixed seed.

    Args:
        sums: sum of each user's values, shape (G,).
        counts: samples of each user, shape (G,).
        confidence: level between 0 and 1.
        bounds: the smallest and the largest value that the mean can take.

    Returns:
        Both ends; (None, None) if so few users can reject nothing at this level.
    """
    if smallest_p(len(sums)) > 1 - confidence:
        return None, None
    test = _Studentised(sums, counts)
    mean = float(sums.sum() / counts.sum())
    scale = max(float(np.sqrt(np.sum((sums - counts * mean) ** 2))) / float(counts.sum()), 1e-9)
    level = 1 - confidence
    return test.end(mean, -scale, bounds[0], level), test.end(mean, scale, bounds[1], level)


class _Studentised:
    """p values of `studentised_interval` for any value of the mean, from sums over users that are found once."""

    def __init__(self, sums: np.ndarray, counts: np.ndarray) -> None:
        """Sum over users with the signs of each pattern; the first pattern is the one that was found."""
        shares = counts / counts.sum()
        signs = _patterns(len(sums))
        self.sums, self.counts, self.squared_shares = sums, counts, float(np.sum(shares**2))
        self.of_sums, self.of_counts = signs @ sums, signs @ counts
        self.weighted_sums, self.weighted_counts = signs @ (shares * sums), signs @ (shares * counts)

    def p(self, value: float) -> float:
        """Return the share of patterns with a statistic at least as large as the found one, for a mean of ``value``."""
        total = self.of_sums - value * self.of_counts
        weighted = self.weighted_sums - value * self.weighted_counts
        squares = float(np.sum((self.sums - value * self.counts) ** 2))
        spread = np.maximum(squares - 2 * total * weighted + total**2 * self.squared_shares, 0)
        # Products instead of quotients: a pattern without spread has an infinite statistic.
        as_large = total**2 * spread[0] >= total[0] ** 2 * spread * (1 - ROUNDING)
        return float(np.mean(as_large))

    def end(self, mean: float, step: float, bound: float, level: float) -> float:
        """Return the last value from ``mean`` towards ``bound`` with a p value above ``level``."""
        inside, outside = mean, mean + step
        while abs(outside - mean) < abs(bound - mean) and self.p(outside) > level:
            inside, step = outside, 2 * step
            outside = mean + step
        if abs(outside - mean) >= abs(bound - mean):
            outside = bound
            if self.p(bound) > level:
                return bound
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if self.p(middle) > level else (inside, middle)
        return inside


def _patterns(users: int) -> np.ndarray:
    """Return patterns of signs, shape (patterns, users); the first is all plus.

    A pattern and its opposite give the same statistic, so the last user keeps the sign.
    """
    if users <= MOST_EXACT_FOR_INTERVALS:
        numbers = np.arange(2 ** (users - 1))
        return 1.0 - 2.0 * ((numbers[:, None] >> np.arange(users)) & 1)
    generator = np.random.default_rng(SEED)
    drawn = generator.integers(0, 2, size=(DRAWN_FOR_INTERVALS, users), dtype=np.int8) * 2.0 - 1.0
    return np.vstack([np.ones(users), drawn])


def smallest_p(users: int) -> float:
    """Return the smallest p value that the exact test of so many users can have."""
    return float(2.0 ** (1 - users))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected for their number by Holm's method (Holm 1979, Scand. J. Statist. 6:65-70).

    The smallest of k is multiplied by k, the next by k - 1 and so on; each is at least the one before, and at most 1.
    Comparisons without a p value stay without one and are not counted.
    """
    known = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (value, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - place) * value))
        corrected[index] = largest
    return corrected
