"""The sentence at the top of the report."""

from __future__ import annotations

from typing import Any

import pandas as pd

from usertune.evaluation.paired import COLUMNS
from usertune.evaluation.recipe import ComparisonDesign, ScoreRecipe
from usertune.reporting.headline import headline

METRICS = ScoreRecipe(step="score", task="grounding", thresholds=(140,)).metrics


def sentence(names: list[str], accuracy: list[float], rows: list[dict[str, Any]], users: int = 10) -> str:
    """Return the headline of a table of differences that says only so much."""
    experiments = [{"name": name, "mode": "vanilla" if name == "vanilla" else "lora"} for name in names]
    design = ComparisonDesign.model_validate(
        {"step": "report", "experiments": experiments, "users": ["1", "2"], "task": "grounding", "thresholds": [140]}
    )
    summary = pd.DataFrame(
        {"experiment": names, "click_accuracy": accuracy, "users": users, "samples": 1200, "confidence": 0.95}
    ).assign(click_accuracy_low=0.1, click_accuracy_high=0.9)
    differences = pd.DataFrame([{"users": users, "corrected_for": 2, **row} for row in rows], columns=COLUMNS)
    return headline(design, METRICS[0], summary, differences)


def gap(name: str, baseline: str, difference: float, low: Any, high: Any, p: Any, **more: Any) -> dict[str, Any]:
    ends = {"difference": difference, "low": low, "high": high, "p_holm": p}
    return {"experiment": name, "baseline": baseline, **ends, **more}


def test_headline_says_no_more_than_the_tests() -> None:
    gaps = [
        gap("lora", "vanilla", 0.35, 0.3, 0.4, 0.004),
        gap("full", "vanilla", 0.33, 0.01, 0.6, 0.06),
        gap("full", "lora", -0.02, -0.1, 0.06, None, corrected_for=None),
    ]
    assert sentence(["vanilla", "lora", "full"], [0.2, 0.55, 0.53], gaps) == (
        "On 1,200 samples of 10 users, lora beats vanilla by 35.0 points [+30.0, +40.0]; "
        "full and vanilla cannot be told apart (+33.0 points [+1.0, +60.0], p = 0.06) (in brackets: 95 % intervals)."
    )


def test_headline_of_a_setback_and_of_missing_intervals_and_tests() -> None:
    worse = sentence(["vanilla", "lora"], [0.5, 0.4], [gap("lora", "vanilla", -0.1, -0.15, -0.05, 0.01)])
    assert "lora falls behind vanilla by 10.0 points [+5.0, +15.0]" in worse
    alike = sentence(["vanilla", "lora"], [0.5, 0.5], [gap("lora", "vanilla", 0, None, None, 1)])
    assert alike == "On 1,200 samples of 10 users, lora and vanilla have equal click accuracy."
    alone = "On 1,200 samples of 10 users, lora has a click accuracy of 50.0 % [10.0, 90.0]."
    assert sentence(["lora"], [0.5], []) == alone
    few = sentence(["vanilla", "lora"], [0.5, 0.9], [gap("lora", "vanilla", 0.4, None, None, None)], users=2)
    assert "lora is 40.0 points above vanilla (2 users allow no test)" in few
    pair = sentence(["lora", "full"], [0.5, 0.9], [gap("full", "lora", 0.4, 0.3, 0.5, 0.002)])
    assert "full beats lora by 40.0 points" in pair
    names = ["vanilla", "a", "b", "c", "d"]
    many = sentence(names, [0.1, 0.2, 0.3, 0.4, 0.5], [gap(name, "vanilla", 0.1, 0, 0.2, 0.5) for name in "abcd"])
    assert many.index("d and vanilla") < many.index("c and vanilla") < many.index("b and vanilla")
    assert "a and vanilla" not in many
    assert "The tables have 1 more comparison." in many


def test_headline_says_which_part_of_a_gain_is_the_form_of_the_answers() -> None:
    parsing = {"of_format": 0.07, "parse_rate": 0.97, "baseline_parse_rate": 0.55, "both_parsed_samples": 640}
    both = {"both_parsed": 0.35, "baseline_both_parsed": 0.36}
    told = sentence(
        ["vanilla", "full"], [0.2, 0.26], [gap("full", "vanilla", 0.06, 0.01, 0.11, 0.03, **parsing, **both)]
    )
    assert (
        "Answer format: of the +6.0 points between full and vanilla, +7.0 come from samples of which only one answer "
        "could be read (full parsed 97.0 %, vanilla 55.0 %); on the 640 samples that both parsed, full has 35.0 % and "
        "vanilla 36.0 %."
    ) in told
    row = gap("full", "vanilla", 0.06, 0.01, 0.11, 0.03, **parsing, **both)
    assert "Answer format" not in sentence(["vanilla", "full"], [0.2, 0.26], [row | {"of_format": 0.005}])
    none = sentence(["vanilla", "full"], [0.2, 0.26], [row | {"both_parsed_samples": 0, "of_format": 0.06}])
    assert "no sample has a readable answer of both" in none
