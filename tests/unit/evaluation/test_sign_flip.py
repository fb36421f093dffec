"""Sign flips, Holm's correction and the split of variance, against libraries and simulations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests

from usertune.evaluation.statistics.sign_flip import MOST_EXACT, holm, sign_flip_test, smallest_p
from usertune.evaluation.statistics.variance import variance_split


@given(st.lists(st.integers(-20, 20).map(lambda value: value / 100), min_size=3, max_size=9))
def test_it_counts_the_same_patterns_as_scipy(differences: list[float]) -> None:
    found = sign_flip_test(differences)
    # In whole hundredths, so that ties are exact.
    whole = np.rint(np.array(differences) * 100)
    expected = stats.permutation_test(
        (whole,), lambda values, axis: np.abs(values.sum(axis=axis)), permutation_type="samples",
        n_resamples=np.inf, alternative="greater", vectorized=True,
    )  # fmt: skip
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.patterns, found.exact) == (2 ** len(differences), True)


def test_users_that_all_gain_have_the_smallest_p_and_no_differences_have_one() -> None:
    for users in (3, 5, 10, MOST_EXACT):
        found = sign_flip_test([0.1 + 0.01 * index for index in range(users)])
        assert found.p == pytest.approx(smallest_p(users)) == pytest.approx(2 / 2**users)
        assert sign_flip_test([0.0] * users).p == 1


@pytest.mark.parametrize("differences", [[], [0.2], [0.2, 0.3]])
def test_two_users_or_fewer_have_no_p(differences: list[float]) -> None:
    assert sign_flip_test(differences).p is None


def test_more_users_are_drawn_with_a_fixed_seed_and_agree_with_all_patterns_and_the_t_test() -> None:
    chance = np.random.default_rng(1)
    gains = chance.normal(0.03, 0.1, MOST_EXACT + 10)
    drawn = sign_flip_test(list(gains))
    assert (drawn.patterns, drawn.exact) == (100_000, False)
    assert sign_flip_test(list(gains)) == drawn
    assert drawn.p == pytest.approx(stats.ttest_1samp(gains, 0).pvalue, rel=0.15)
    # Users without a difference add patterns, but change no share.
    few = list(gains[:MOST_EXACT])
    exact, more = sign_flip_test(few), sign_flip_test([*few, 0.0])
    assert exact.exact
    assert not more.exact
    assert more.p == pytest.approx(exact.p, abs=0.0014)


def test_p_values_below_a_level_are_as_rare_as_the_level_says() -> None:
    # Skewed sizes of gains, symmetric around zero, as under the hypothesis.
    chance = np.random.default_rng(2)
    gains = chance.exponential(0.1, (2000, 8)) * chance.choice([-1, 1], (2000, 8))
    p_values = np.array([sign_flip_test(list(row)).p for row in gains])
    assert np.mean(p_values <= 0.05) == pytest.approx(0.047, abs=0.012)
    assert np.mean(p_values <= 0.25) == pytest.approx(0.25, abs=0.025)


def test_holm_by_hand_leaves_out_what_has_no_p() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([None]) == [None]
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1, 1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
@settings(max_examples=20)
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def _table(users: int, seeds: int, sd: tuple[float, float, float], chance: np.random.Generator) -> pd.DataFrame:
    of_users, of_seeds = chance.normal(0, sd[0], (users, 1)), chance.normal(0, sd[1], (1, seeds))
    return pd.DataFrame(0.5 + of_users + of_seeds + chance.normal(0, sd[2], (users, seeds)))


def test_the_split_of_variance_is_that_of_the_mean_squares_of_statsmodels() -> None:
    table = _table(10, 4, (0.1, 0.05, 0.02), np.random.default_rng(3))
    long = table.melt(ignore_index=False, var_name="seed", value_name="value").reset_index(names="user")
    square = anova_lm(ols("value ~ C(user) + C(seed)", long).fit())["mean_sq"]
    found = variance_split(table)
    assert found is not None
    assert found.residual == pytest.approx(square["Residual"])
    assert found.users == pytest.approx((square["C(user)"] - square["Residual"]) / 4)
    assert found.seeds == pytest.approx((square["C(seed)"] - square["Residual"]) / 10)


def test_the_split_of_variance_finds_the_components_that_made_the_values() -> None:
    chance = np.random.default_rng(4)
    found = [variance_split(_table(10, 5, (0.1, 0.05, 0.02), chance)) for _ in range(1500)]
    means = np.mean([(split.users, split.seeds, split.residual) for split in found if split], axis=0)
    assert means == pytest.approx([0.01, 0.0025, 0.0004], rel=0.06)


def test_no_split_of_one_user_or_one_seed_or_with_a_gap_and_no_shares_of_nothing() -> None:
    table = pd.DataFrame([[0.1, 0.2], [0.3, 0.5]])
    assert variance_split(table) is not None
    for other in (table.iloc[:1], table.iloc[:, :1], table.where(table > 0.1)):
        assert variance_split(other) is None
    nothing = variance_split(table * 0)
    assert nothing is not None
    assert nothing.shares is None
    # A negative estimate: the users' means are equal, but single values are not.
    split = variance_split(pd.DataFrame([[0.1, 0.5], [0.5, 0.1]]))
    assert split is not None
    assert (split.users, split.seeds) == (0, 0)
    assert split.shares == (0, 0, 1)
