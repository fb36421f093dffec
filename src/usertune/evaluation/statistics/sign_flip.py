"""Tests of paired differences between users: exact sign flips, and Holm's correction for several of them."""

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


def smallest_p(users: int) -> float:
    """Return the smallest p value that the exact test of so many users can have."""
    return float(2.0 ** (1 - users))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected for their number by Holm's method (Holm 1979, Scand. J. Statist. 6:65-70).

    Comparisons without a p value stay without one and are not counted.
    """
    known = [value for value in p_values if value is not None]
    if not known:
        return list(p_values)
    # Imported here because the import takes a second.
    from statsmodels.stats.multitest import multipletests

    corrected = iter(multipletests(known, method="holm")[1])
    return [None if value is None else float(next(corrected)) for value in p_values]
