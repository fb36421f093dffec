"""Paired comparisons: how far one experiment is above another on the same samples, and for whom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from usertune.evaluation.recipe import CompareRecipe
from usertune.evaluation.statistics.intervals import by_user, effective_users, mean_of_samples, mean_of_users
from usertune.evaluation.statistics.power import smallest_detectable
from usertune.evaluation.statistics.sign_flip import FEWEST_USERS, SignFlip, holm, sign_flip_test, smallest_p
from usertune.evaluation.statistics.who import helped_and_hurt, worst_decile
from usertune.tasks.metrics import Metric

# Below this a comparison of the headline has a winner, after Holm's correction.
SIGNIFICANT = 0.05

Pair = tuple[str, str]


@dataclass(frozen=True)
class Answers:
    """What is compared, one value a sample, all in the same order of samples.

    Attributes:
        users: the user of each sample.
        values: experiment or group -> the primary metric.
        parsed: experiment or group -> whether the answer was parsed, 0 or 1 (of a group: the share of its seeds).
    """

    users: pd.Series
    values: Mapping[str, pd.Series]
    parsed: Mapping[str, pd.Series]


@dataclass(frozen=True)
class Gap:
    """A row of `differences_table` in one direction: how far ``experiment`` is above ``other``.

    Numbers that a row does not have are NaN. ``both_parsed`` and ``other_both_parsed`` are of their two experiments.
    """

    experiment: str
    other: str
    users: int
    difference: float
    low: float
    high: float
    p_holm: float
    is_stated: bool
    of_format: float
    parse_rate: float
    other_parse_rate: float
    both_parsed_samples: float
    both_parsed: float
    other_both_parsed: float


def gap_between(differences: pd.DataFrame, name: str, other: str) -> Gap:
    """Return how far one experiment or group is above another."""
    forwards = differences[(differences["experiment"] == name) & (differences["baseline"] == other)]
    if len(forwards):
        row: Any = forwards.iloc[0]
        sign, low, high, own, others = 1, row["low"], row["high"], "", "baseline_"
    else:
        row = differences[(differences["experiment"] == other) & (differences["baseline"] == name)].iloc[0]
        sign, low, high, own, others = -1, row["high"], row["low"], "baseline_", ""
    return Gap(
        experiment=name,
        other=other,
        users=int(row["users"]),
        difference=sign * _float(row["difference"]),
        low=sign * _float(low),
        high=sign * _float(high),
        p_holm=_float(row["p_holm"]),
        is_stated=_float(row["corrected_for"]) > 0,
        of_format=sign * _float(row["of_format"]),
        parse_rate=_float(row[f"{own}parse_rate"]),
        other_parse_rate=_float(row[f"{others}parse_rate"]),
        both_parsed_samples=_float(row["both_parsed_samples"]),
        both_parsed=_float(row[f"{own}both_parsed"]),
        other_both_parsed=_float(row[f"{others}both_parsed"]),
    )


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


def stated_pairs(recipe: CompareRecipe, chosen: Sequence[str]) -> tuple[Pair, ...]:
    """Return the comparisons whose p values are corrected together.

    They are those of the hypothesis. If it names none, each experiment is compared with the baseline (the first of mode
    vanilla); without a baseline, with each other. A group takes part as its chosen setting, so its experiments do not.

    Args:
        recipe: the experiments and the stated comparisons.
        chosen: the groups with a chosen setting.
    """
    if recipe.comparisons:
        return recipe.comparisons
    alone = [item.name for item in recipe.experiments if item.group is None or item.name == recipe.baseline]
    names = [*alone, *chosen]
    if recipe.baseline is not None:
        return tuple((name, recipe.baseline) for name in names if name != recipe.baseline)
    return tuple((later, earlier) for earlier, later in combinations(names, 2))


def differences_table(
    primary: Metric, confidence: float, answers: Answers, stated: Sequence[Pair], only_stated: bool = False
) -> pd.DataFrame:
    """Return one row for each pair: how far the experiment is above the baseline in the primary metric.

    Two overlapping intervals of single experiments do not show that the two are equal; this table answers that
    question. The columns are those of `_row`, and ``p_holm``: the p value corrected for the stated pairs, of which
    ``corrected_for`` is the number; both are empty for other pairs.

    Args:
        primary: the metric that is compared.
        confidence: level of the intervals.
        answers: what is compared.
        stated: the pairs whose p values are corrected together, see `stated_pairs`.
        only_stated: leave out the others; else each pair has a row, the later one above the earlier.
    """
    known = {frozenset(pair) for pair in stated}
    others = [(later, earlier) for earlier, later in combinations(answers.values, 2)]
    pairs = [*stated, *(pair for pair in others if not only_stated and frozenset(pair) not in known)]
    rows = [_row(primary, confidence, answers, pair) for pair in pairs]
    corrected = holm([row["p"] for row in rows[: len(stated)]])
    for row, value in zip(rows, corrected, strict=False):
        row |= {"p_holm": value, "corrected_for": len(stated)}
    return pd.DataFrame(rows, columns=COLUMNS)


# Of tables without rows too.
COLUMNS = [
    "experiment", "baseline", "users", "samples", "effective_users", "largest_share", "confidence", "difference", "low",
    "high", "p", "p_holm", "corrected_for", "test", "sd_users", "smallest_detectable", "helped", "hurt", "worst_decile",
    "micro", "micro_low", "micro_high", "parse_rate", "baseline_parse_rate", "parse_difference", "parse_low",
    "parse_high", "parse_p", "both_parsed_samples", "both_parsed", "baseline_both_parsed", "both_parsed_difference",
    "both_parsed_low", "both_parsed_high", "of_format",
]  # fmt: skip


def _row(primary: Metric, confidence: float, answers: Answers, pair: Pair) -> dict[str, Any]:
    """Return the comparison of one pair.

    Each user has the mean of the differences of their samples. ``difference`` is the mean over users, with Student's t
    interval, and ``p`` that of `sign_flip_test`; ``test`` says how the p value was found, or why there is none.
    ``sd_users`` is the standard deviation of the users' differences, ``smallest_detectable`` what follows from it (see
    `smallest_detectable`), ``helped`` and ``hurt`` count users (see `helped_and_hurt`), and ``worst_decile`` is the
    mean of the users who gain least. ``micro`` is the mean over samples.
    """
    name, baseline = pair
    gains = answers.values[name] - answers.values[baseline]
    users = by_user(gains, answers.users)
    higher = primary.better == "higher"
    reach = primary.bounds[1] - primary.bounds[0]
    bounds = (-reach, reach)
    row: dict[str, Any] = {"experiment": name, "baseline": baseline, "users": len(users), "confidence": confidence}
    if users.empty:
        return row | {"samples": 0, "p": None, "test": "no value: no sample that both have a value of"}
    macro, micro = mean_of_users(users["mean"], confidence, bounds), mean_of_samples(users, confidence, bounds)
    test, sd = sign_flip_test(list(users["mean"])), float(users["mean"].std(ddof=1))
    helped, hurt = helped_and_hurt(gains, answers.users, higher)
    return row | {
        "samples": int(users["count"].sum()),
        "effective_users": effective_users(users["count"].tolist()),
        "largest_share": users["count"].max() / users["count"].sum(),
        **{"difference": macro.mean, "low": macro.low, "high": macro.high},
        **{"p": test.p, "test": test_in_words(test, len(users))},
        "sd_users": sd,
        "smallest_detectable": smallest_detectable(sd, len(users)),
        **{"helped": helped, "hurt": hurt, "worst_decile": worst_decile(users["mean"], higher)},
        **{"micro": micro.mean, "micro_low": micro.low, "micro_high": micro.high},
        **_format(confidence, bounds, answers, pair, gains),
    }


def _format(
    confidence: float, bounds: tuple[float, float], answers: Answers, pair: Pair, gains: pd.Series
) -> dict[str, Any]:
    """Return how much of a difference is the form of the answers.

    ``parse_...`` compares the parse rates as the metric is compared. ``both_parsed`` and ``baseline_both_parsed`` are
    the means over users on the samples that both parsed, with their difference. ``of_format`` is the part of the
    difference that comes from the other samples, of which one answer was parsed and the other was not (two unparsed
    answers have equal values): each user's sum of these differences over all their samples, then the mean over users.
    """
    name, baseline = pair
    owners = answers.users
    parsed, other = answers.parsed[name][gains.notna()], answers.parsed[baseline][gains.notna()]
    rates = by_user(parsed, owners)["mean"].mean(), by_user(other, owners)["mean"].mean()
    of_parsing = by_user(parsed - other, owners)["mean"]
    parsing = mean_of_users(of_parsing, confidence, (-1, 1))
    both = (answers.parsed[name] == 1) & (answers.parsed[baseline] == 1) & gains.notna()
    found: dict[str, Any] = {
        **{"parse_rate": rates[0], "baseline_parse_rate": rates[1], "parse_difference": parsing.mean},
        **{"parse_low": parsing.low, "parse_high": parsing.high, "parse_p": sign_flip_test(list(of_parsing)).p},
        "both_parsed_samples": int(both.sum()),
        "of_format": by_user(gains.where(~both, 0.0), owners)["mean"].mean(),
    }
    if not both.any():
        return found
    means = [by_user(answers.values[key][both], owners)["mean"].mean() for key in pair]
    gain = mean_of_users(by_user(gains[both], owners)["mean"], confidence, bounds)
    return found | {
        **{"both_parsed": means[0], "baseline_both_parsed": means[1], "both_parsed_difference": gain.mean},
        **{"both_parsed_low": gain.low, "both_parsed_high": gain.high},
    }


def test_in_words(test: SignFlip, users: int) -> str:
    """Return how a p value was found, or why there is none."""
    if test.p is None:
        have = "one user allows" if users == 1 else f"{users} users allow"
        return f"no p value: {have} none below 5 %, however large the difference (at least {FEWEST_USERS} are needed)"
    if not test.exact:
        return f"sign flips of {users} users, {test.patterns:,} random patterns"
    smallest = smallest_p(users)
    least = f"; with so few users no p value is below {smallest:g}" if smallest > SIGNIFICANT else ""
    return f"exact sign flips of {users} users, all {test.patterns:,} patterns{least}"
