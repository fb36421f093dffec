"""The matrix of adapters: each user by their own adapters and by those of every other one."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp

from usertune.evaluation.adapter_matrix import matrix_markdown, matrix_sentence, matrix_table
from usertune.evaluation.recipe import CompareRecipe

USERS = ("7", "8", "ana")
OWNERS = {"others_1": {"7": "8", "8": "ana", "ana": "7"}, "others_2": {"7": "ana", "8": "7", "ana": "8"}}
# (user, whose adapters) -> hits of the user's four samples.
HITS = {
    ("7", "7"): 4, ("7", "8"): 1, ("7", "ana"): 2,
    ("8", "8"): 3, ("8", "ana"): 3, ("8", "7"): 2,
    ("ana", "ana"): 2, ("ana", "7"): 0, ("ana", "8"): 1,
}  # fmt: skip


def recipe() -> CompareRecipe:
    swapped = [{"name": name, "mode": "lora", "scope": "matrix", "group": "others"} for name in OWNERS]
    return CompareRecipe.model_validate(
        {
            "step": "compare", "task": "grounding", "thresholds": [140.0], "users": USERS, "confidence": 0.9,
            "experiments": [{"name": "own", "mode": "lora", "scope": "personal"}, *swapped],
            "matrices": {"others": {"own": "own", "owners": OWNERS}},
        }
    )  # fmt: skip


def samples() -> pd.DataFrame:
    rows = []
    for name, owners in {"own": {user: user for user in USERS}, **OWNERS}.items():
        for user in USERS:
            hits = HITS[user, owners[user]]
            rows += [(name, user, f"{user}/{index}", float(index < hits)) for index in range(4)]
    return pd.DataFrame(rows, columns=["experiment", "user", "id", "hit_140"])


def test_each_cell_is_the_metric_of_a_user_by_the_adapters_of_a_user() -> None:
    design = recipe()
    primary = design.metrics[0]
    table = matrix_table(design, primary, samples())
    assert table["user"].tolist() == list(USERS)
    for row in table.to_dict("records"):
        cells = {owner: row[f"adapter_{owner}"] for owner in USERS}
        assert cells == {owner: HITS[row["user"], owner] / 4 for owner in USERS}
        assert (row["samples"], row["own"]) == (4, cells[row["user"]])
        assert row["difference"] == row["own"] - np.mean([cells[owner] for owner in USERS if owner != row["user"]])
    gains = table["difference"]
    interval = ttest_1samp(gains, 0).confidence_interval(0.9)
    said = matrix_sentence(table, primary, 0.9)
    means = f"{100 * 9 / 12:.1f} % by their own adapters, {100 * 9 / 24:.1f} % by those of the others"
    assert f"own, click accuracy, mean over 3 users: {means}; own minus others +37.5" in said
    assert primary.difference_interval(interval.low, interval.high) in said
    # All three gain: two of eight patterns of signs are as far from zero.
    assert "p = 0.25, exact sign flips of 3 users, all 8 patterns" in said
    text = matrix_markdown(table, primary, 0.9)
    assert re.search(r"\| 8 +\| +4 \| +50\.0 \| +\*\*75\.0\*\* \| +75\.0 \| +62\.5 \| +\+12\.5 \|", text)
