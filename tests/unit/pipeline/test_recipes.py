"""What changes which recipe, and what a fingerprint depends on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usertune.core.hashing import canonical_json, digest, step_fingerprint
from usertune.pipeline.recipe_changes import recipe_changes
from usertune.pipeline.recipes import Recipes
from usertune.pipeline.steps import RECORDED_STEPS
from usertune.runtime.code_version import STEP_ENTRIES
from usertune.study.load import study_from_config
from usertune.study.schema.report import FIGURE_NAMES

BASE = {
    "name": "small",
    "dataset": {"root": "data"},
    "users": {"train": "3-5", "validation": 6, "test": "1-2"},
    "base_model": {"path": "base"},
    "experiments": {"vanilla": {"mode": "vanilla"}, "lora": {"mode": "lora"}, "full": {"mode": "full"}},
}
Texts = dict[str, str]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("abc"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
)


CODE = {step: f"code of {step}" for step in (*STEP_ENTRIES, *(f"figure:{name}" for name in FIGURE_NAMES))}


def all_recipes(code: dict[str, str] | None = None, versions: dict[str, str] | None = None, **changes: Any) -> Texts:
    recipes = Recipes(study_from_config({**BASE, **changes}), CODE | (code or {}), versions or {"torch": "2"})
    names = list(recipes.study.experiments)
    found = {"prepare": recipes.prepare(), "leakage": recipes.leakage(), "base_model": recipes.base_model()}
    found["compare"] = recipes.compare()
    found |= {f"train {name}": recipes.train(name) for name in names if name != "vanilla"}
    found |= {f"{step} {name}": getattr(recipes, step)(name) for step in ("predict", "score") for name in names}
    last = {"report": recipes.report(), "figure": recipes.figure("loss_curves"), "audit": recipes.audit()}
    return {**found, **last}


SCORES = {f"score {name}" for name in BASE["experiments"]}
LAST = {"figure", "audit", "report"}
EVERYTHING_BELOW_LORA = {"train lora", "predict lora", "score lora", "compare", *LAST}
EVERYTHING_BELOW_FULL = {"train full", "predict full", "score full"}
ALL_TRAINED = {"train lora", "train full"}
ALL_TRAINING = {f"{step} {name}" for step in ("train", "predict", "score") for name in ("lora", "full")}
DATA = {"prepare", "leakage"}
ALL_BUT_SOURCES = set(all_recipes()) - {*DATA, "base_model"}


def served(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the change that a server answers for vanilla."""
    engine = {"kind": "openai", **settings}
    return {"experiments": {**BASE["experiments"], "vanilla": {"mode": "vanilla", "engine": engine}}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"training": {"micro_batch_size": 2, "gradient_checkpointing": False, "save_every_steps": 5}}, set()),
        ({"training": {"lora": {"rank": 16}}}, EVERYTHING_BELOW_LORA),
        ({"training": {"epochs": 2}}, ALL_TRAINING | {"compare", *LAST}),
        ({"users": {**BASE["users"], "train": "3-5,7"}}, ALL_TRAINING | {"leakage", "compare", *LAST}),  # type: ignore[dict-item]
        ({"users": {**BASE["users"], "validation": "8"}}, ALL_TRAINING | {"leakage", "compare", *LAST}),  # type: ignore[dict-item]
        ({"users": {**BASE["users"], "test": "1"}}, {"leakage", "compare", *LAST}),  # type: ignore[dict-item]
        ({"base_model": {"path": "base", "max_pixels": 9}}, ALL_BUT_SOURCES | {"base_model"}),
        ({"base_model": {"path": "other"}}, ALL_BUT_SOURCES | {"base_model"}),
        ({"dataset": {"root": "data", "on_bad_sample": "skip"}}, ALL_BUT_SOURCES | DATA),
        ({"dataset": {"root": "data", "frame": "pixels"}}, ALL_BUT_SOURCES | DATA),
        ({"dataset": {"root": "data", "prompt": {"system": "Click."}}}, ALL_BUT_SOURCES | DATA),
        ({"base_model": {"path": "base", "thinking": False}}, ALL_BUT_SOURCES | {"base_model"}),
        ({"base_model": {"path": "base", "dtype": "float32"}}, ALL_BUT_SOURCES),
        ({"dataset": {"root": "elsewhere", "users_per_job": 3}}, set()),
        ({"report": {"title": "x"}}, {"report"}),
        ({"report": {"samples": "texts"}}, {"report"}),
        ({"hypothesis": "Training helps."}, {"report"}),
        ({"hypothesis": {"text": "It helps.", "comparisons": [["full", "lora"]]}}, {"compare", *LAST}),
        ({"evaluation": {"thresholds": [150]}}, {*SCORES, "compare", *LAST}),
        ({"evaluation": {"confidence": 0.9}}, {"compare", *LAST}),
        ({"folds": {"count": 3}}, {*SCORES, "leakage", "compare", *LAST}),
        ({"rerun": {"on_code_change": False}}, set()),
        ({"report": {"figures": {"loss_curves": {"colours": {}}}}}, set()),
        ({"evaluation": {"batch_size": 2, "users_per_job": 2, "expected_parse_rate": 1, "gain_sd": 3}}, set()),
        (
            {"experiments": {**BASE["experiments"], "vanilla": {"mode": "vanilla", "max_new_tokens": 5}}},  # type: ignore[dict-item]
            {"predict vanilla", "score vanilla", "compare", *LAST},
        ),
        (served({"url": "http://h/v1", "model": "m"}), {"predict vanilla", "score vanilla", "compare", *LAST}),
    ],
)
def test_a_change_reaches_the_steps_below_it_and_no_others(changes: dict[str, Any], expected: set[str]) -> None:
    before, after = all_recipes(), all_recipes(**changes)
    assert {name for name in before if before[name] != after[name]} == expected


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"model": "n"}, True),
        ({"url": "http://other/v1"}, True),
        ({"seed": 1}, True),
        ({"parameters": {"top_k": 1}}, True),
        ({"resize": False}, True),
        ({"url": "http://h/v1/", "temperature": 0}, False),
        ({"timeout": 9, "retries": 1, "concurrent": 2, "per_minute": 5, "api_key_env": "KEY"}, False),
    ],
)
def test_only_settings_of_a_server_that_decide_an_answer_reach_the_predictions(
    settings: dict[str, Any], changes: bool
) -> None:
    usual = {"url": "http://h/v1", "model": "m"}
    before, after = all_recipes(**served(usual)), all_recipes(**served({**usual, **settings}))
    expected = {"predict vanilla", "score vanilla", "compare", *LAST} if changes else set()
    assert {name for name in before if before[name] != after[name]} == expected


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        # Expensive work is not repeated, but the audit names it, so the audit is made again.
        *((step, {"audit", "report"}) for step in RECORDED_STEPS),
        ("score", {*SCORES, "compare", *LAST}),
        ("leakage", {"leakage", "audit", "report"}),
        ("compare", {"compare", *LAST}),
        ("figure:loss_curves", LAST),
        ("figure:accuracy_by_user", {"audit", "report"}),
        ("audit", {"audit", "report"}),
        ("report", {"report"}),
    ],
)
def test_other_code_reaches_the_cheap_steps_below_it(step: str, expected: set[str]) -> None:
    before, after = all_recipes(), all_recipes(code={step: "other"})
    assert {name for name in before if before[name] != after[name]} == expected


def test_users_that_nothing_is_trained_on_reach_leakage_audit_and_report_alone() -> None:
    untrained: dict[str, Any] = {"experiments": {"vanilla": {"mode": "vanilla"}}}
    before = all_recipes(**untrained)
    after = all_recipes(**untrained, users={**BASE["users"], "train": "3-5,7"})  # type: ignore[dict-item]
    assert {name for name in before if before[name] != after[name]} == {"leakage", "audit", "report"}


STRICT: dict[str, Any] = {"rerun": {"on_code_change": True}}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"code": {"train": "other"}}, EVERYTHING_BELOW_LORA | EVERYTHING_BELOW_FULL),
        ({"code": {"prepare": "other"}}, ALL_BUT_SOURCES | DATA),
        ({"code": {"base_model": "other"}}, ALL_BUT_SOURCES | {"base_model"}),
        ({"code": {"predict": "other"}}, ALL_BUT_SOURCES - ALL_TRAINED),
        ({"versions": {"torch": "3"}}, ALL_BUT_SOURCES | {*DATA, "base_model"}),
    ],
)
def test_other_code_and_packages_reach_the_expensive_steps_if_the_study_says_so(
    changed: dict[str, Any], expected: set[str]
) -> None:
    before, after = all_recipes(**STRICT), all_recipes(**STRICT, **changed)
    assert {name for name in before if before[name] != after[name]} == expected
    for name in expected:
        of_both = [json.loads(recipes[name]) for recipes in (before, after)]
        if of_both[0]["step"] in RECORDED_STEPS:
            first, second = (step_fingerprint(recipe, {}) for recipe in of_both)
            assert first == second, "what was made with the same inputs keeps its name"


def test_how_often_things_are_made_again_is_no_part_of_what_the_numbers_are() -> None:
    of_both = [Recipes(study_from_config({**BASE, **changes}), CODE) for changes in ({}, STRICT)]
    assert of_both[0].study_digest == of_both[1].study_digest
    other = Recipes(study_from_config({**BASE, "evaluation": {"thresholds": [150]}}), CODE)
    assert other.study_digest != of_both[0].study_digest


def test_colours_of_a_figure_reach_no_other_figure() -> None:
    coloured = {"report": {"figures": {"loss_curves": {"colours": {"lora": "#AA3377"}}}}}
    recipes = Recipes(study_from_config({**BASE, **coloured}))
    colours = {name: json.loads(recipes.figure(name))["colours"] for name in FIGURE_NAMES}
    assert colours == {**{name: {} for name in FIGURE_NAMES}, "loss_curves": {"lora": "#aa3377"}}
    standard = Recipes(study_from_config(BASE))
    redrawn = {name for name in FIGURE_NAMES if recipes.figure(name) != standard.figure(name)}
    assert redrawn == {"loss_curves"}
    assert recipes.compare() == standard.compare()
    of_report, of_standard_report = (json.loads(of_study.report()) for of_study in (recipes, standard))
    assert {**of_report, "upstream": {}} == {**of_standard_report, "upstream": {}}


def test_changes_of_a_recipe_are_said_in_words() -> None:
    was = {"step": "train", "training": {"epochs": 1, "lora": {"rank": 4}}, "upstream": {"prepare": "a"}, "old": None}
    now = {"step": "train", "training": {"epochs": 1, "lora": {"rank": 8}}, "upstream": {"prepare": "b"}, "new": "é"}
    assert recipe_changes(was, now) == [
        'new: (not set) -> "é"',
        "old: null -> (not set)",
        "training.lora.rank: 4 -> 8",
    ]
    assert recipe_changes(was, {**was, "provenance": {"code": "b"}, "rebuild": "c"}) == []
    (long,) = recipe_changes({"users": []}, {"users": list(range(100))})
    assert len(long) < 90


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


SEEDS = {"vanilla": {"mode": "vanilla"}, "runs": {"mode": "lora", "sweep": {"seed": [0, 1]}}}
STATED = {"text": "It helps.", "comparisons": [["runs", "vanilla"]]}


def recipes_of(**changes: Any) -> Texts:
    found = Recipes(study_from_config({**BASE, "experiments": SEEDS, "hypothesis": STATED, **changes}), CODE, {})
    names = found.study.experiments
    texts = {f"train {name}": found.train(name) for name in names if name != "vanilla"}
    texts |= {f"score {name}": found.score(name) for name in names}
    return texts | {"compare": found.compare(), "report": found.report(), "audit": found.audit()}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"hypothesis": {**STATED, "text": "Or not."}}, {"report"}),
        ({"hypothesis": {**STATED, "comparisons": []}}, {"compare", "report", "audit"}),
        ({"experiments": {**SEEDS, "runs": {**SEEDS["runs"], "select": "none"}}}, set()),
    ],
)
def test_the_words_of_a_hypothesis_reach_the_report_alone_and_its_comparisons_the_tables(
    changes: dict[str, Any], expected: set[str]
) -> None:
    before, after = recipes_of(), recipes_of(**changes)
    assert {name for name in before if before[name] != after[name]} == expected


def test_a_value_that_is_added_to_a_sweep_changes_no_recipe_of_other_experiments() -> None:
    before = recipes_of()
    sweep = {"seed": [2, 0, 1], "training.learning_rate": ["1e-4"]}
    after = recipes_of(experiments={**SEEDS, "runs": {"mode": "lora", "sweep": {"seed": [2, 0, 1]}}})
    assert {name for name in before if before[name] != after[name]} == {"compare", "report", "audit"}
    assert after.keys() - before.keys() == {"train runs_seed2", "score runs_seed2"}
    # A further key makes other names, but the same trainings.
    named = recipes_of(experiments={**SEEDS, "runs": {"mode": "lora", "sweep": sweep}})
    assert named["train runs_lr1e_4_seed1"] == before["train runs_seed1"]


def test_what_chooses_a_setting_is_part_of_the_comparison_alone() -> None:
    sweep = {"mode": "lora", "sweep": {"training.lora.rank": [4, 8]}}
    chosen = recipes_of(experiments={**SEEDS, "runs": sweep})
    assert json.loads(chosen["compare"])["select"] == {"runs": "loss"}
    none = recipes_of(experiments={**SEEDS, "runs": {**sweep, "select": "none"}}, hypothesis=None)
    assert {name for name in chosen if chosen[name] != none[name]} == {"compare", "report", "audit"}
    assert "select" not in json.loads(none["compare"])
    assert "validation_users" not in json.loads(chosen["compare"])
    # Those who choose by their answers are answered and scored by the recipes of test users.
    accurate = recipes_of(experiments={**SEEDS, "runs": {**sweep, "select": "accuracy"}})
    assert {name for name in chosen if chosen[name] != accurate[name]} == {"compare", "report", "audit"}
