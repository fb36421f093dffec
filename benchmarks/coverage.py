"""How often the intervals of the tables hold the truth, and how often the headline finds a winner among equals.

Users' accuracies are drawn from a beta distribution, users' gains from a normal one, then samples; the truth is known,
and the share of intervals that hold it should be 95 %. User sizes: ten equal users (50 samples each), the ten users of
the reference experiment, and ten users with 1 to 200 samples. CR1 is the usual cluster-robust interval of a mean over
samples, for comparison. For the headline, experiments without any difference in truth are compared with vanilla:

    python benchmarks/coverage.py
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import pandas as pd
from scipy import stats

from usertune.evaluation.paired import Answers, differences_table
from usertune.evaluation.recipe import ComparisonDesign
from usertune.evaluation.statistics.intervals import Estimate, mean_of_samples, mean_of_users
from usertune.reporting.headline import headline

REFERENCE = (268, 1310, 561, 1058, 457, 305, 3700, 255, 530, 1619)
SIZES: dict[str, tuple[int, ...]] = {
    "equal": (50,) * 10,
    "reference": REFERENCE,
    "skewed": (1, 2, 4, 7, 13, 25, 45, 80, 140, 200),
}
# Name -> mean accuracy, and standard deviation over users.
ACCURACIES = {"low": (0.05, 0.07), "middle": (0.35, 0.1), "high": (0.9, 0.095)}
# Name -> standard deviation of users' true gains.
GAINS = {"alike": 0.03, "unlike": 0.06}
# The mean gain. At 0.02, a whole sample of 50, many patterns of signs have exactly the statistic of the found one, and
# the test of that one value is conservative; no other value near it is such a special case.
GAIN = 0.0217
# A hit becomes a miss, or a miss a hit, in so many samples.
CHANGED = 0.3
EQUALS = ("one", "two", "three")
LEVEL = 0.95

Draw = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, sizes in SIZES.items():
        counts, chance = np.array(sizes), np.random.default_rng(len(found))
        found[name] = {
            key: coverage(counts, arguments.studies, mean, (0, 1), accuracies(mean, sd), chance)
            for key, (mean, sd) in ACCURACIES.items()
        }
        found[name] |= {
            f"gains_{key}": coverage(counts, arguments.studies, GAIN, (-1, 1), gains(GAIN, sd), chance)
            for key, sd in GAINS.items()
        }
        found[name]["winner_among_equals"] = winners(counts, arguments.headlines, chance)
    return found


def accuracies(mean: float, sd: float) -> Draw:
    """Return what draws the hits of each user, whose accuracy has a beta distribution."""
    both = mean * (1 - mean) / sd**2 - 1
    return lambda chance, counts: chance.binomial(counts, chance.beta(mean * both, (1 - mean) * both, len(counts)))


def gains(mean: float, sd: float) -> Draw:
    """Return what draws each user's sum of paired differences, -1, 0 or 1 a sample."""

    def draw(chance: np.random.Generator, counts: np.ndarray) -> np.ndarray:
        own = np.clip(chance.normal(mean, sd, len(counts)), -CHANGED, CHANGED)
        changed = chance.binomial(counts, CHANGED)
        return np.asarray(2 * chance.binomial(changed, (1 + own / CHANGED) / 2) - changed)

    return draw


def coverage(
    counts: np.ndarray, studies: int, truth: float, bounds: tuple[float, float], draw: Draw, chance: np.random.Generator
) -> dict[str, float]:
    """Return how often each interval holds the truth, and its mean width."""
    held: dict[str, list[bool]] = {"macro": [], "micro": [], "cr1": []}
    widths: dict[str, list[float]] = {name: [] for name in held}
    for _ in range(studies):
        users = pd.DataFrame({"sum": draw(chance, counts), "count": counts})
        users["mean"] = users["sum"] / users["count"]
        for name, estimate in {
            "macro": mean_of_users(users["mean"], LEVEL, bounds),
            "micro": mean_of_samples(users, LEVEL, bounds),
            "cr1": cr1(users),
        }.items():
            # Users that do not vary have no interval: the tables show none, and promise nothing.
            if estimate.low is not None and estimate.high is not None:
                held[name].append(estimate.low <= truth <= estimate.high)
                widths[name].append(estimate.high - estimate.low)
    shares = {name: round(float(np.mean(values)), 4) for name, values in held.items()}
    return shares | {f"{name}_width": round(float(np.mean(values)), 4) for name, values in widths.items()}


def cr1(users: pd.DataFrame) -> Estimate:
    """Return the mean over samples with the cluster-robust interval CR1, with t of one degree less than users."""
    number, total = len(users), users["count"].sum()
    mean = users["sum"].sum() / total
    error = math.sqrt(number / (number - 1) * ((users["sum"] - users["count"] * mean) ** 2).sum()) / total
    half = float(stats.t.ppf((1 + LEVEL) / 2, number - 1)) * error
    return Estimate(float(mean), float(mean - half), float(mean + half))


def winners(counts: np.ndarray, studies: int, chance: np.random.Generator) -> float:
    """Return the share of studies in which the headline says that one of several equal experiments wins or loses."""
    users = pd.Series(pd.Categorical(np.repeat(np.arange(len(counts)), counts)))
    names = ["vanilla", *EQUALS]
    design = ComparisonDesign.model_validate({
        "step": "compare", "task": "grounding", "thresholds": [140.0], "users": [str(user) for user in set(users)],
        "experiments": [{"name": name, "mode": "vanilla" if name == "vanilla" else "lora"} for name in names],
    })  # fmt: skip
    primary = design.metrics[0]
    said = 0
    for _ in range(studies):
        easy = np.repeat(np.clip(chance.normal(0.4, 0.1, len(counts)), 0.05, 0.95), counts)
        values = {}
        for name in names:
            own = np.repeat(chance.normal(0, 0.04, len(counts)), counts)
            values[name] = pd.Series((chance.random(len(users)) < np.clip(easy + own, 0, 1)).astype(float))
        parsed = dict.fromkeys(names, pd.Series(1.0, index=users.index))
        pairs = [(name, "vanilla") for name in EQUALS]
        table = differences_table(primary, LEVEL, Answers(users, values, parsed), pairs, only_stated=True)
        means = [values[name].groupby(users, observed=True).mean().mean() for name in names]
        summary = pd.DataFrame({"experiment": names, primary.name: means, "users": len(counts), "samples": len(users)})
        sentence = headline(design, primary, summary.assign(confidence=LEVEL), table)
        said += "beats" in sentence or "falls behind" in sentence
    return round(said / studies, 4)


def tell(measured: dict[str, Any]) -> list[str]:
    lines = []
    for sizes, found in measured.items():
        for key, shares in found.items():
            if isinstance(shares, dict):
                parts = (f"{name} {100 * shares[name]:.1f} %" for name in ("macro", "micro", "cr1"))
                lines.append(f"{sizes} users, {key}: {', '.join(parts)}")
        lines.append(f"{sizes} users: a winner among equals in {100 * found['winner_among_equals']:.1f} % of studies")
    return lines


if __name__ == "__main__":
    common.run(main, tell, {
        "studies": (20000, 20, "simulated studies for each interval"),
        "headlines": (1000, 3, "simulated studies for the headline"),
    })  # fmt: skip
