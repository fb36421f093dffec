"""The comparisons that a study's hypothesis names, with p values that are corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from usertune.evaluation.statistics.intervals import Estimate, mean_of_users
from usertune.evaluation.statistics.sign_flip import FEWEST_USERS, SignFlip, holm, sign_flip_test, smallest_p
from usertune.tasks.metrics import Metric

COLUMNS = (
    "experiment", "baseline", "users", "samples", "confidence", "difference", "low", "high", "p", "p_holm", "test",
)  # fmt: skip


def hypothesis_table(
    comparisons: Sequence[tuple[str, str]],
    primary: Metric,
    confidence: float,
    users: pd.Series,
    values: Mapping[str, pd.Series],
) -> pd.DataFrame:
    """Return one row for each comparison: how far the experiment is above the other in the primary metric.

    Each user has the mean of the differences of their samples. ``difference`` is the mean over users, with Student's t
    interval with users - 1 degrees of freedom; ``p`` is that of `sign_flip_test`, and ``p_holm`` is corrected for the
    comparisons of this table. ``test`` says how the p value was found, or why there is none.

    Args:
        comparisons: (experiment or group, the one that it is compared with).
        primary: the metric that is compared.
        confidence: level of the intervals.
        users: the user of each sample.
        values: experiment or group -> the metric of each sample, see `usertune.evaluation.groups.values_of_samples`.
    """
    rows: list[tuple[object, ...]] = []
    tests: list[SignFlip] = []
    reach = primary.bounds[1] - primary.bounds[0]
    for name, baseline in comparisons:
        gains = values[name] - values[baseline]
        by_user = gains.groupby(users, sort=False).mean().dropna()
        found: Estimate = mean_of_users(by_user, confidence, (-reach, reach))
        tests.append(sign_flip_test(list(by_user)))
        counts = (len(by_user), int(gains.count()))
        rows.append((name, baseline, *counts, confidence, found.mean, found.low, found.high))
    corrected = holm([test.p for test in tests])
    complete = [
        (*row, test.p, p_holm, test_in_words(test, int(str(row[2]))))
        for row, test, p_holm in zip(rows, tests, corrected, strict=True)
    ]
    return pd.DataFrame(complete, columns=list(COLUMNS))


def test_in_words(test: SignFlip, users: int) -> str:
    """Return how a p value was found, or why there is none."""
    if test.p is None:
        have = "one user allows" if users == 1 else f"{users} users allow"
        return f"no p value: {have} none below 5 %, however large the difference (at least {FEWEST_USERS} are needed)"
    if not test.exact:
        return f"sign flips of {users} users, {test.patterns:,} random patterns"
    smallest = smallest_p(users)
    least = f"; with so few users no p value is below {smallest:g}" if smallest > 0.05 else ""
    return f"exact sign flips of {users} users, all {test.patterns:,} patterns{least}"
