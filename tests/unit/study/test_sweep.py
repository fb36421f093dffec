"""A sweep becomes named experiments, or is refused with file, line and key."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from usertune.core.errors import UserError
from usertune.study.copy import read_resolved, resolved_text, study_text
from usertune.study.load import load_study, study_from_config
from usertune.study.schema.experiment import NAME
from usertune.study.schema.study import Study
from usertune.study.sweep import expand_sweeps

HEAD = """name: small
dataset: {root: data}
users: {train: 3-5, validation: 6, test: 1-2}
base_model: {path: base}
experiments:
  vanilla: {mode: vanilla}
"""
BASE: dict[str, Any] = {
    "name": "small",
    "dataset": {"root": "data"},
    "users": {"train": "3-5", "validation": 6, "test": "1-2"},
    "base_model": {"path": "base"},
    "training": {"batch_size": 4},
}


def swept(sweep: Any, **own: Any) -> Study:
    return study_from_config({**BASE, "experiments": {"runs": {"mode": "lora", "sweep": sweep, **own}}})


def names(sweep: Any, **own: Any) -> list[str]:
    return list(swept(sweep, **own).experiments)


def test_each_combination_of_the_values_is_an_experiment_in_the_place_of_the_sweep() -> None:
    experiments = {
        "vanilla": {"mode": "vanilla"},
        "runs": {
            "mode": "lora",
            "training": {"epochs": 2},
            "sweep": {"training.learning_rate": ["1e-5", 1e-4], "seed": [0, 1]},
        },
        "full": {"mode": "full"},
    }
    study = study_from_config({**BASE, "experiments": experiments})
    own = {
        name: (value.training.learning_rate, value.training.seed, value.training.epochs, value.training.batch_size)
        for name, value in study.experiments.items()
        if value.training and value.group
    }
    assert own == {
        "runs_lr1e_5_seed0": (1e-5, 0, 2, 4),
        "runs_lr1e_5_seed1": (1e-5, 1, 2, 4),
        "runs_lr1e_4_seed0": (1e-4, 0, 2, 4),
        "runs_lr1e_4_seed1": (1e-4, 1, 2, 4),
    }
    assert list(study.experiments) == ["vanilla", *own, "full"]
    assert study.groups == {"runs": tuple(own)}


def test_hand_picked_settings() -> None:
    study = swept([{"lora.rank": 8, "seed": 1}, {"rank": 16, "training.learning_rate": 2e-4}])
    found = {
        name: (value.training.lora.rank, value.training.seed, value.training.learning_rate)
        for name, value in study.experiments.items()
        if value.training
    }
    assert found == {"runs_rank8_seed1": (8, 1, 1e-4), "runs_lr2e_4_rank16": (16, 0, 2e-4)}


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("learning_rate", 0.00002, "runs_lr2e_5"),
        ("learning_rate", "2.0e-05", "runs_lr2e_5"),
        ("learning_rate", 1.5e-5, "runs_lr1_5e_5"),
        ("dropout", 0.05, "runs_dropout0_05"),
        ("epochs", 3.0, "runs_epochs3"),
        ("epochs", 0.5, "runs_epochs0_5"),
        ("max_new_tokens", 512, "runs_max_new_tokens512"),
        ("schedule", "cosine", "runs_schedule_cosine"),
        ("gradient_checkpointing", True, "runs_gradient_checkpointing_true"),
        ("early_stopping", None, "runs_early_stopping_none"),
    ],
)
def test_names_say_the_values_however_they_are_written(key: str, value: Any, name: str) -> None:
    assert names({key: [value]}) == [name]


def test_settings_of_an_engine_are_keys_too() -> None:
    engine = {"kind": "openai", "url": "http://127.0.0.1:1/v1", "model": "m"}
    study = swept({"engine.temperature": [0.5, 1.0]}, mode="vanilla", engine=engine)
    assert [value.engine.settings["temperature"] for value in study.experiments.values() if value.engine] == [0.5, 1.0]
    assert list(study.experiments) == ["runs_temperature0_5", "runs_temperature1"]


def test_names_depend_on_neither_order_nor_spelling_nor_other_values() -> None:
    few = names({"seed": [0], "training.learning_rate": [1e-5]})
    many = names({"learning_rate": ["1e-4", "1e-5"], "training.seed": [2, 1, 0]})
    assert few == ["runs_lr1e_5_seed0"]
    assert set(few) < set(many)


def test_long_names_are_cut_and_stay_different() -> None:
    found = names({"validate_every_steps": [10, 20], "gradient_checkpointing": [True, False]})
    assert all(re.fullmatch(NAME, name) for name in found)
    assert len(set(found)) == 4
    assert found[:1] == names({"gradient_checkpointing": [True], "validate_every_steps": [10]})


VALUES = st.lists(
    st.one_of(st.integers(-(10**6), 10**6), st.floats(allow_nan=False), st.text(max_size=50), st.booleans(), st.none()),
    min_size=1,
    max_size=6,
)


@given(VALUES, VALUES)
@example([None], ["true", True])
@example(["none"], [None, "none"])
def test_any_values_give_different_names_of_the_allowed_form_that_further_values_leave_alone(
    rates: list[Any], schedules: list[Any]
) -> None:
    def expand(rates: list[Any]) -> Any:
        sweep = {"learning_rate": rates, "training.schedule": schedules}
        return expand_sweeps({"experiments": {"runs": {"mode": "lora", "sweep": sweep}}})

    whole = expand(rates)
    if whole.problems:
        assert all("is listed twice" in problem.text for problem in whole.problems)
        return
    found = whole.groups["runs"]
    assert len(set(found)) == len(rates) * len(schedules)
    assert all(re.fullmatch(NAME, name) for name in found)
    assert set(expand(rates[:1]).groups["runs"]) <= set(found)


# Each is a sweep of the experiment "runs" and what is said of it; the sweep begins in line 9.
WRONG = [
    ("{seed: []}", "study.yaml:9: experiments.runs.sweep.seed: a list of values is expected, as in [0, 1, 2]"),
    ("{seed: 3}", "study.yaml:9: experiments.runs.sweep.seed: a list of values is expected, as in [0, 1, 2]; found 3"),
    ("{seed: [0, 1, 0]}", "study.yaml:9: experiments.runs.sweep.seed: 0 is listed twice; keep it once"),
    ("{learning_rate: [1e-5, 0.00001]}", "sweep.learning_rate: 1e-05 is listed twice"),
    ("{lerning_rate: [1e-5]}", "study.yaml:9: experiments.runs.sweep.lerning_rate: unknown key; did you mean "
     "'training.learning_rate'? The keys that can be swept are: mode, "),
    ("{seed: [0],\n      traning.epochs: [1]}", "study.yaml:10: experiments.runs.sweep.traning.epochs: unknown key"),
    ("{training: [1]}", "experiments.runs.sweep.training: unknown key"),
    ("{lr: [1e-5]}", "experiments.runs.sweep.lr: unknown key; did you mean 'training.learning_rate'? The keys that"),
    ("{group: [a]}", "experiments.runs.sweep.group: unknown key; the keys that can be swept are: "),
    ("{seed: [0],\n      epochs: [1, two]}", "study.yaml:10: experiments.runs.sweep.epochs: 'two' is not allowed"),
    ("{seed: [-1]}", "study.yaml:9: experiments.runs.sweep.seed: -1 is not allowed; input should be greater than or "),
    ("{seed: [0], training.seed: [1]}", "sweep.training.seed: training.seed is swept twice; keep one of them"),
    ("{warmup: [0.1]}", "sweep.warmup: the experiment sets training.warmup too (0.2); remove one of the two"),
    ("{}", "study.yaml:9: experiments.runs.sweep: a mapping of keys to lists of values is expected"),
    ("[]", "experiments.runs.sweep: a mapping of keys to lists of values is expected"),
    ("null", "experiments.runs.sweep: a mapping of keys to lists of values is expected"),
    ("[{seed: 0},\n      {seed: 1, epochs: x}]", "study.yaml:10: experiments.runs.sweep.1.epochs: 'x' is not allowed"),
    ("[{seed: 0},\n      {seed: 0}]", "study.yaml:10: experiments.runs.sweep.1: entries 1 and 2 are the same; remove"),
    ("[{seed: 0, training.seed: 0}]", "experiments.runs.sweep.0.training.seed: training.seed is set twice"),
    ("[3]", "experiments.runs.sweep.0: a mapping of keys to values is expected, as in {seed: 0}; found 3"),
    ("{batch_size: [3]}", "study.yaml:7: experiments.runs.training: batch_size (3) must be a multiple of"),
    ("{schedule: [linear, cosin]}", "study.yaml:9: experiments.runs.sweep.schedule: 'cosin' is not allowed; use"),
    (f"{{seed: {list(range(30))}, epochs: {list(range(1, 30))}}}", "these are 870 experiments; at most 500"),
]  # fmt: skip


@pytest.mark.parametrize(("sweep", "said"), WRONG, ids=[sweep[:30] for sweep, _ in WRONG])
def test_mistakes_are_named_with_file_line_and_key(sweep: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    own = "mode: lora, training: {warmup: 0.2, micro_batch_size: 2},\n    gpus: 1"
    file.write_text(f"{HEAD}  runs: {{{own},\n    sweep: {sweep}}}\n")
    with pytest.raises(UserError) as caught:
        load_study([file])
    assert said in str(caught.value)
    assert "(1 problem)" in str(caught.value)


@pytest.mark.parametrize(
    ("experiments", "said"),
    [
        (
            {"runs_seed0": {"mode": "lora"}},
            "experiments.runs.sweep: one of its experiments is called runs_seed0",
        ),
        ({"other": {"mode": "lora", "group": "runs_seed0"}}, "the group 'runs_seed0' has the name of an experiment"),
        (
            {"given": {"mode": "vanilla", "sweep": {"answers": ["a.jsonl", "b.jsonl"]}}},
            "experiments.given.sweep.answers: a path cannot be swept; write one experiment for each, with the same gr",
        ),
        ({"train": {"mode": "lora", "sweep": {"seed": [0]}}}, "the group 'train' has the name of a workflow step"),
        ({"Runs": {"mode": "lora", "sweep": {"seed": [0]}}}, "experiments.Runs: 'Runs_seed0' is not a safe name"),
        (
            {"own": {"mode": "lora", "group": "a", "sweep": {"seed": [0]}}},
            "own.group: the group of a sweep",
        ),
        (
            {"more": {"mode": "lora", "like": "runs"}},
            "experiments.more.like: runs is a sweep of 2 experiments; name one of them: runs_seed0, runs_seed1",
        ),
    ],
)
def test_names_that_clash_and_sweeps_that_cannot_be_meant(experiments: dict[str, Any], said: str) -> None:
    runs = {"runs": {"mode": "lora", "sweep": {"seed": [0, 1]}}}
    with pytest.raises(UserError) as caught:
        study_from_config({**BASE, "experiments": runs | experiments})
    assert said in str(caught.value)


def test_the_resolved_study_lists_the_experiments_and_loads_as_the_same_study(tmp_path: Path) -> None:
    study = swept({"seed": [0, 1]})
    resolved = tmp_path / "study.json"
    resolved.write_text(resolved_text(study))
    assert read_resolved(resolved) == study
    text = study_text(study, {})
    assert "runs_seed1:" in text
    assert "sweep:" not in text
    file = tmp_path / "study.yaml"
    file.write_text(text)
    again = load_study([file])
    assert (again.experiments, again.groups) == (study.experiments, study.groups)


def test_experiments_of_a_group_may_be_made_elsewhere() -> None:
    given = {f"run{seed}": {"mode": "lora", "answers": f"/runs/{seed}.jsonl", "group": "given"} for seed in (0, 1)}
    study = study_from_config({**BASE, "experiments": given})
    assert study.groups == {"given": ("run0", "run1")}
    assert study.origin.elsewhere == {"run0": "/runs/0.jsonl", "run1": "/runs/1.jsonl"}


def test_the_colour_of_a_group_is_that_of_its_experiments_except_those_with_their_own() -> None:
    colours = {"runs": "#111111", "runs_seed1": "#222222"}
    config = {
        **BASE,
        "experiments": {"runs": {"mode": "lora", "sweep": {"seed": [0, 1]}}},
        "report": {"figures": {"loss_curves": {"colours": colours}}},
    }
    before = copy.deepcopy(config)
    found = study_from_config(config).report.figures.loss_curves.colours  # type: ignore[attr-defined]
    assert found == {"runs_seed0": "#111111", "runs_seed1": "#222222"}
    assert config == before, "the configuration itself is not changed"
