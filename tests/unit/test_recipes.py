"""What changes which recipe, and what a fingerprint depends on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usertune.config import study_from_config
from usertune.fingerprint import canonical_json, digest, step_fingerprint
from usertune.recipes import Recipes
from usertune.study import FIGURE_NAMES

BASE = {
    "name": "small",
    "dataset": {"root": "data"},
    "users": {"train": "3-5", "validation": 6, "test": "1-2"},
    "base_model": {"path": "base"},
    "experiments": {"vanilla": {"mode": "vanilla"}, "lora": {"mode": "lora"}, "full": {"mode": "full"}},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("abc"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
)


def all_recipes(**changes: Any) -> dict[str, str]:
    recipes = Recipes(study_from_config({**BASE, **changes}))
    names = list(recipes.study.experiments)
    found = {"prepare": recipes.prepare(), "base_model": recipes.base_model(), "compare": recipes.compare()}
    found |= {f"train {name}": recipes.train(name) for name in names if name != "vanilla"}
    found |= {f"{step} {name}": getattr(recipes, step)(name) for step in ("predict", "score") for name in names}
    return {**found, "report": recipes.report(), "figure": recipes.figure("loss_curves")}


EVERYTHING_BELOW_LORA = {"train lora", "predict lora", "score lora", "compare", "report", "figure"}
ALL_TRAINING = {f"{step} {name}" for step in ("train", "predict", "score") for name in ("lora", "full")}
ALL_BUT_SOURCES = set(all_recipes()) - {"prepare", "base_model"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"training": {"micro_batch": 2, "gradient_checkpointing": False, "save_every_steps": 5}}, set()),
        ({"training": {"lora": {"rank": 8}}}, EVERYTHING_BELOW_LORA),
        ({"training": {"epochs": 2}}, ALL_TRAINING | {"compare", "report", "figure"}),
        ({"users": {**BASE["users"], "train": "3-5,7"}}, ALL_TRAINING | {"compare", "report", "figure"}),  # type: ignore[dict-item]
        ({"users": {**BASE["users"], "test": "1"}}, {"compare", "report", "figure"}),  # type: ignore[dict-item]
        ({"base_model": {"path": "base", "max_pixels": 9}}, ALL_BUT_SOURCES),
        ({"base_model": {"path": "other"}}, ALL_BUT_SOURCES | {"base_model"}),
        ({"dataset": {"root": "data", "on_bad_sample": "skip"}}, ALL_BUT_SOURCES | {"prepare"}),
        ({"dataset": {"root": "elsewhere"}}, set()),
        ({"report": {"title": "x"}}, {"report"}),
        ({"report": {"figures": {"loss_curves": {"colours": {}}}}}, set()),
        ({"evaluation": {"batch_size": 2, "users_per_job": 2}}, set()),
        (
            {"experiments": {**BASE["experiments"], "vanilla": {"mode": "vanilla", "max_new_tokens": 5}}},  # type: ignore[dict-item]
            {"predict vanilla", "score vanilla", "compare", "report", "figure"},
        ),
    ],
)
def test_a_change_reaches_the_steps_below_it_and_no_others(changes: dict[str, Any], expected: set[str]) -> None:
    before, after = all_recipes(), all_recipes(**changes)
    assert {name for name in before if before[name] != after[name]} == expected


def test_colours_of_a_figure_reach_no_other_figure() -> None:
    coloured = {"report": {"figures": {"loss_curves": {"colours": {"lora": "#AA3377"}}}}}
    recipes = Recipes(study_from_config({**BASE, **coloured}))
    colours = {name: json.loads(recipes.figure(name))["colours"] for name in FIGURE_NAMES}
    assert colours == {"accuracy_by_user": {}, "distance_distribution": {}, "loss_curves": {"lora": "#aa3377"}}
    standard = Recipes(study_from_config(BASE))
    redrawn = {name for name in FIGURE_NAMES if recipes.figure(name) != standard.figure(name)}
    assert redrawn == {"loss_curves"}
    assert recipes.compare() == standard.compare()
    of_report, of_standard_report = (json.loads(of_study.report()) for of_study in (recipes, standard))
    assert {**of_report, "upstream": {}} == {**of_standard_report, "upstream": {}}


def test_upstream_and_order_do_not_count_for_the_fingerprint_but_inputs_do() -> None:
    recipe = {"step": "score", "thresholds": [140], "upstream": {"predict": "a"}}
    other = {"upstream": {"predict": "b"}, "thresholds": [140], "step": "score"}
    assert step_fingerprint(recipe, {"x": "1"}) == step_fingerprint(other, {"x": "1"})
    assert step_fingerprint(recipe, {"x": "1"}) != step_fingerprint(recipe, {"x": "2"})


@given(JSON, JSON)
def test_digests_are_equal_exactly_when_canonical_texts_are(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) == (canonical_json(one) == canonical_json(other))


@given(st.dictionaries(st.text("abcdef"), JSON))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert digest(value) == digest(dict(reversed(list(value.items()))))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_numbers_that_json_does_not_have_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest(value)
