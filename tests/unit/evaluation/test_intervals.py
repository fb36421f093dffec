"""Intervals over users: their formulas, how often they hold the truth, and what has none."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from tests.support.benchmarks import benchmark_module
from usertune.evaluation.statistics.intervals import by_user, effective_users, mean_of_samples, mean_of_users
from usertune.evaluation.statistics.power import assumed_sd, smallest_detectable
from usertune.evaluation.statistics.sign_flip import _Studentised, holm, sign_flip_test, studentised_interval
from usertune.evaluation.statistics.who import helped_and_hurt, worst_decile

FRACTION, GAIN, ANY = (0, 1), (-1, 1), (-math.inf, math.inf)
coverage = benchmark_module("coverage")


def users_of(sums: object, counts: object) -> pd.DataFrame:
    users = pd.DataFrame({"sum": sums, "count": counts}, dtype=float)
    return users.assign(mean=users["sum"] / users["count"])


def test_users_have_the_sums_of_their_values_and_no_row_without_one() -> None:
    values = pd.Series([1, 0, math.nan, 1, math.nan])
    found = by_user(values, pd.Series(pd.Categorical(list("aabbc"), categories=list("abcd"))))
    assert found.to_dict("list") == {"sum": [1, 1], "count": [2, 1], "mean": [0.5, 1]}


def test_the_mean_over_users_has_the_interval_of_scipy() -> None:
    values = pd.Series([0.2, 0.5, 0.4, 0.9])
    found = mean_of_users(values, 0.9, ANY)
    expected = stats.t.interval(0.9, 3, loc=values.mean(), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), *expected))
    assert mean_of_users(values, 0.99, FRACTION).low == 0


def test_effective_users_of_the_reference() -> None:
    assert effective_users([7, 7, 7]) == pytest.approx(3)
    assert effective_users(coverage.REFERENCE) == pytest.approx(5.0, abs=0.05)
    assert max(coverage.REFERENCE) / sum(coverage.REFERENCE) == pytest.approx(0.368, abs=0.0005)


@given(st.lists(st.integers(-9, 9), min_size=6, max_size=8), st.randoms())
def test_the_sign_flip_interval_ends_where_its_p_value_passes_the_level(sums: list[int], chance: object) -> None:
    counts = np.array([10.0 + index for index in range(len(sums))])
    values = np.array(sums, dtype=float)
    if len(set(sums)) < 2:
        return
    low, high = studentised_interval(values, counts, 0.9, GAIN)
    assert low is not None
    assert high is not None
    assert low <= values.sum() / counts.sum() <= high
    for end, outward in ((low, -1), (high, 1)):
        if abs(end) < 1:
            assert slow_p(values, counts, end - outward * 1e-7) > 0.1 >= slow_p(values, counts, end + outward * 1e-7)


def slow_p(sums: np.ndarray, counts: np.ndarray, value: float) -> float:
    """The p value with a loop over all patterns of signs, as the definition says it."""
    shares = counts / counts.sum()

    def statistic(flipped: np.ndarray) -> float:
        spread = np.sum((flipped - shares * flipped.sum()) ** 2)
        return float(flipped.sum() ** 2 / spread) if spread > 1e-18 else math.inf

    own = sums - counts * value
    signs = [[1 - 2 * (number >> bit & 1) for bit in range(len(sums))] for number in range(2 ** len(sums))]
    found = statistic(own)
    return float(np.mean([statistic(own * np.array(pattern)) >= found * (1 - 1e-9) for pattern in signs]))


def test_drawn_patterns_give_nearly_the_interval_of_all_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(0)
    counts = chance.integers(5, 200, 12).astype(float)
    sums = counts * chance.normal(0.05, 0.1, 12)
    exact = studentised_interval(sums, counts, 0.95, GAIN)
    monkeypatch.setattr("usertune.evaluation.statistics.sign_flip.MOST_EXACT_FOR_INTERVALS", 11)
    drawn = studentised_interval(sums, counts, 0.95, GAIN)
    assert drawn == pytest.approx(exact, abs=0.004)
    assert drawn != exact


def test_with_equal_users_the_interval_of_a_fraction_is_student_t_on_the_logit_scale() -> None:
    hits, count = np.array([12.0, 30, 21, 40, 18]), 50.0
    found = mean_of_samples(users_of(hits, count), 0.95, FRACTION)
    mean = hits.sum() / (5 * count)
    half = stats.t.ppf(0.975, 4) * stats.sem(hits / count) / (mean * (1 - mean))
    ends = 1 / (1 + np.exp(-(math.log(mean / (1 - mean)) + np.array([-half, half]))))
    assert (found.mean, found.low, found.high) == pytest.approx((mean, *ends))


def test_bell_mccaffrey_is_that_of_matrices() -> None:
    counts, hits = np.array([5.0, 9, 20, 40]), np.array([2.0, 3, 15, 12])
    found = mean_of_samples(users_of(hits, counts), 0.95, FRACTION)
    # A regression on a constant: the hat matrix of user g is 1 1' / N.
    total, mean = counts.sum(), hits.sum() / counts.sum()
    rows = []
    for user, count in enumerate(int(count) for count in counts):
        values, vectors = np.linalg.eigh(np.eye(count) - np.ones((count, count)) / total)
        adjusted = np.ones(count) @ (vectors @ np.diag(values**-0.5) @ vectors.T) / total
        whole = np.zeros(int(total))
        start = int(counts[:user].sum())
        whole[start : start + count] = adjusted
        rows.append(whole @ (np.eye(int(total)) - np.ones((int(total), int(total))) / total))
    sample_hits = np.concatenate([np.arange(count) < hit for count, hit in zip(counts, hits, strict=True)]).astype(
        float
    )
    error = math.sqrt(sum(float(row @ (sample_hits - mean)) ** 2 for row in rows))
    matrix = np.array(rows) @ np.array(rows).T
    freedom = np.trace(matrix) ** 2 / np.sum(matrix**2)
    half = stats.t.ppf(0.975, freedom) * error / (mean * (1 - mean))
    low, high = 1 / (1 + np.exp(-(math.log(mean / (1 - mean)) + np.array([-half, half]))))
    assert (found.low, found.high) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("sums", "counts"),
    [([3], [9]), ([3, 1], [9, 9]), ([0, 0, 0], [5, 6, 7]), ([5, 6, 7], [5, 6, 7]), ([2, 4, 6], [4, 8, 12])],
)
def test_no_interval_of_one_or_two_users_or_without_variation(sums: list[int], counts: list[int]) -> None:
    users = users_of(sums, counts)
    for found in (mean_of_users(users["mean"], 0.95, FRACTION), mean_of_samples(users, 0.95, FRACTION)):
        assert (found.low, found.high) == (None, None)
        assert found.mean == pytest.approx(users["mean"].mean())


def test_five_users_can_reject_nothing_by_sign_flips() -> None:
    users = users_of([1, 2, 3, 4, 6], [10] * 5)
    assert mean_of_samples(users, 0.95, GAIN).low is None
    assert mean_of_samples(users, 0.9, GAIN).low is not None


@pytest.mark.parametrize("sizes", ["equal", "reference"])
def test_intervals_hold_the_truth_as_often_as_they_say(sizes: str) -> None:
    counts, chance, studies = np.array(coverage.SIZES[sizes]), np.random.default_rng(7), 1200
    hits = coverage.accuracies(0.35, 0.1)
    gains = coverage.gains(0.02, 0.06)
    held: dict[str, list[bool]] = {}

    def note(name: str, truth: float, low: float | None, high: float | None) -> None:
        held.setdefault(name, []).append(low is not None and high is not None and low <= truth <= high)

    for _ in range(studies):
        of_hits, of_gains = (users_of(draw(chance, counts), counts) for draw in (hits, gains))
        for name, found in {
            "macro": mean_of_users(of_hits["mean"], 0.95, FRACTION),
            "micro": mean_of_samples(of_hits, 0.95, FRACTION),
            "cr1": coverage.cr1(of_hits),
        }.items():
            note(name, 0.35, found.low, found.high)
        paired = mean_of_users(of_gains["mean"], 0.95, GAIN)
        note("paired", 0.02, paired.low, paired.high)
        # The truth is in the interval where its p value is above the level, which is faster than finding both ends.
        p = _Studentised(of_gains["sum"].to_numpy(), of_gains["count"].to_numpy()).p(0.02)
        note("paired micro", 0.02, *((0, 1) if p > 0.05 else (None, None)))
    shares = {name: float(np.mean(values)) for name, values in held.items()}
    # Three standard errors of 1,200 studies beside the aim of 94 to 96 %.
    for name in ("macro", "micro", "paired", "paired micro"):
        assert 0.925 <= shares[name] <= 0.98, shares
    if sizes == "reference":
        assert shares["cr1"] < 0.92, "the usual interval, which this replaces"


def test_equal_experiments_seldom_have_a_winner_after_holm() -> None:
    chance, studies = np.random.default_rng(8), 1500
    counts = np.array(coverage.REFERENCE)
    rejected = 0
    for _ in range(studies):
        p_values = [sign_flip_test(list(coverage.gains(0, 0.05)(chance, counts) / counts)).p for _ in range(3)]
        rejected += any(p is not None and p < 0.05 for p in holm(p_values))
    assert rejected / studies <= 0.05 + 0.012


def test_the_smallest_detectable_gain_is_that_of_statsmodels_and_is_found_in_four_of_five_studies() -> None:
    assert smallest_detectable(5, 10) == pytest.approx(4.98, abs=0.005)
    assert smallest_detectable(10, 10) == pytest.approx(9.96, abs=0.005)
    for users in (3, 6, 83):
        expected = TTestPower().solve_power(nobs=users, alpha=0.05, power=0.8)
        assert smallest_detectable(0.1, users) == pytest.approx(0.1 * expected, rel=1e-4)
    assert [smallest_detectable(*args) for args in ((0.0, 10), (0.1, 2), (math.nan, 10))] == [None, None, None]
    gains = np.random.default_rng(9).normal(smallest_detectable(0.1, 10) or 0, 0.1, (4000, 10))
    assert np.mean(stats.ttest_1samp(gains, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.02)
    assert assumed_sd(0.05, [25, 100]) == pytest.approx(math.sqrt(0.0025 + 0.25 * (1 / 25 + 1 / 100) / 2))


def test_users_are_helped_or_hurt_beyond_the_chance_of_their_samples() -> None:
    owners = pd.Series(list("a" * 10 + "b" * 10 + "c" * 10 + "d" * 4))
    gains = pd.Series([1.0] * 6 + [0] * 4 + [-1] * 7 + [1] + [0, 0] + [1] * 5 + [0] * 5 + [math.nan] * 4)
    # a: 6 up, 0 down: p = 0.031; b: 1 up, 7 down: p = 0.070; c: 5 up, 0 down: p = 0.0625.
    assert helped_and_hurt(gains, owners, higher_is_better=True) == (1, 0)
    assert helped_and_hurt(gains, owners, higher_is_better=False) == (0, 1)
    chance = np.random.default_rng(3)
    owners = pd.Series(np.repeat(np.arange(2000), 30))
    up, down = helped_and_hurt(pd.Series(chance.integers(-1, 2, len(owners))), owners, higher_is_better=True)
    assert 0.005 < up / 2000 < 0.03
    assert 0.005 < down / 2000 < 0.03


def test_the_worst_tenth_of_users() -> None:
    values = pd.Series(np.arange(25) / 100)
    assert worst_decile(values, higher_is_better=True) == pytest.approx(0.01)
    assert worst_decile(values, higher_is_better=False) == pytest.approx(0.23)
    assert worst_decile(values[:4], higher_is_better=True) == 0
