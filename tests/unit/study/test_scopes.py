"""Experiments with weights for each user: what a study may say of them, and the training keys that they take over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from usertune.core.errors import UserError
from usertune.study.copy import read_resolved, resolved_text, study_text
from usertune.study.load import load_study, study_from_config
from usertune.study.schema.study import Study

MATRIX = {"mode": "lora", "adapters_of": "p", "assign": "matrix"}
PERSONAL = {"mode": "lora", "scope": "personal"}


def study_with(experiments: dict[str, Any], **sections: Any) -> Study:
    config = {
        "name": "scopes",
        "dataset": {"root": "dataset"},
        "users": {"train": "11", "test": "1-3"},
        "base_model": {"path": "base"},
        "folds": {"count": 2},
        "experiments": {"vanilla": {"mode": "vanilla"}, "full": {"mode": "full"}, **experiments},
    }
    return study_from_config({**config, **sections})


@pytest.mark.parametrize(
    ("experiments", "sections", "message"),
    [
        ({"p": PERSONAL}, {"folds": None}, "experiments.p.scope: personal needs folds of each test user's samples"),
        ({"p": {**PERSONAL, "gpus": 2}}, {}, "experiments.p: gpus: each training of scope personal runs on one GPU"),
        (
            {"p": {"mode": "full", "scope": "pooled", "nodes": 2, "parallel": "ddp"}},
            {},
            "nodes, parallel: each training",
        ),
        ({"p": {"mode": "vanilla", "scope": "personal"}}, {}, "mode vanilla is not trained; remove scope"),
        ({"p": {"mode": "vanilla", "start_from": "full", "like": "full"}}, {}, "remove start_from, like"),
        ({"p": {"mode": "lora", "start_from": "full"}}, {}, "start_from: only for scope personal or pooled"),
        ({"p": {"mode": "lora", "samples": 3}}, {}, "samples: only for scope personal or pooled"),
        ({"p": {**PERSONAL, "samples": 0}}, {}, "experiments.p.samples"),
        (
            {"p": {**PERSONAL, "training": {"keep": "best"}}},
            {},
            "experiments.p.training: keep: best needs a validation",
        ),
        (
            {"p": PERSONAL},
            {"training": {"early_stopping": 2}, "users": {"train": "11", "validation": "12", "test": "1"}},
            "experiments.p.training: early_stopping needs a validation loss",
        ),
        (
            {"p": {**PERSONAL, "start_from": "ful"}},
            {},
            "experiments.p.start_from: no experiment is named ful; use one of",
        ),
        ({"p": {**PERSONAL, "start_from": "p"}}, {}, "experiments.p.start_from: experiment p has scope personal"),
        (
            {"p": {**PERSONAL, "training": {"keep_checkpoints": [5]}}},
            {},
            "experiments.p.training: keep_checkpoints: trainings on folds keep only their last weights",
        ),
        ({"s": {"mode": "lora", "adapters_of": "p"}}, {}, "experiments.s.adapters_of: no experiment is named p"),
        ({"s": {"mode": "lora", "adapters_of": "full"}}, {}, "adapters_of: experiment full has no adapters for each"),
        (
            {"p": PERSONAL, "s": {"mode": "lora", "adapters_of": "p", "shift": 3}},
            {},
            "experiments.s.shift: 3 places on, each of the 3 test users has their own adapters",
        ),
        ({"s": {"mode": "full", "adapters_of": "p"}}, {}, "adapters_of: only for mode lora, not full"),
        ({"s": {"mode": "lora", "adapters_of": "p", "scope": "personal"}}, {}, "is not trained; remove scope"),
        ({"s": {"mode": "lora", "shift": 2}}, {}, "shift: only with adapters_of"),
        ({"s": {"mode": "lora", "assign": "matrix"}}, {}, "assign, shift: only with adapters_of"),
        (
            {"p": PERSONAL, "s": {**MATRIX, "shift": 2}},
            {},
            "experiments.s.shift: assign: matrix stands for a sweep over all values of shift; remove",
        ),
        (
            {"p": PERSONAL, "s": {**MATRIX, "sweep": {"seed": [0]}}},
            {},
            "experiments.s.sweep: assign: matrix stands for",
        ),
        (
            {"p": PERSONAL, "s": MATRIX},
            {"users": {"train": "11", "test": "1"}},
            "experiments.s.assign: matrix: there is no other user",
        ),
        (
            {"p": PERSONAL, "s": {**MATRIX, "shift": 2, "group": "m"}},
            {},
            "experiments.s.assign: matrix: the group m does not have each shift from 1 to 2 once",
        ),
        ({"p": {**PERSONAL, "like": "vanilla"}}, {}, "experiments.p.like: experiment vanilla has no training keys"),
        ({"p": {**PERSONAL, "like": "nobody"}}, {}, "experiments.p.like: no experiment is named nobody"),
        (
            {"p": {**PERSONAL, "like": "q"}, "q": {**PERSONAL, "like": "p"}},
            {},
            "experiments.p.like: p -> q -> p is a circle",
        ),
    ],
)
def test_what_cannot_work_is_refused_by_key(
    experiments: dict[str, Any], sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        study_with(experiments, **sections)
    assert message in str(refused.value)


def test_like_takes_over_training_keys_and_own_keys_come_first() -> None:
    study = study_with(
        {
            "personal": {
                **PERSONAL,
                "training": {"epochs": 3, "learning_rate": 2e-5, "warmup_steps": 5, "lora": {"rank": 4}},
            },
            "pooled": {"mode": "lora", "scope": "pooled", "like": "personal", "training": {"epochs": 2, "warmup": 0.1}},
            "third": {"mode": "lora", "like": "pooled"},
        },
        training={"weight_decay": 0.5, "warmup_steps": 9},
    )
    personal, pooled, third = (study.experiments[name].training for name in ("personal", "pooled", "third"))
    assert personal
    assert pooled
    assert third
    assert (pooled.epochs, pooled.learning_rate, pooled.lora.rank, pooled.weight_decay) == (2, 2e-5, 4, 0.5)
    assert (pooled.warmup, pooled.warmup_steps, personal.warmup_steps) == (0.1, None, 5)
    assert third == pooled


def test_the_learning_rate_of_a_mode_is_not_taken_over() -> None:
    study = study_with({"other": {"mode": "lora", "scope": "personal", "like": "full"}})
    found = {name: experiment.training for name, experiment in study.experiments.items()}
    assert found["other"]
    assert found["full"]
    assert (found["other"].learning_rate, found["full"].learning_rate) == (1e-4, 1e-5)


def test_which_trainings_there_are() -> None:
    study = study_with({"p": {**PERSONAL, "start_from": "full"}, "q": {**PERSONAL, "start_from": "vanilla"}})
    assert [name for name, one in study.experiments.items() if one.trained] == ["full"]
    assert [name for name, one in study.experiments.items() if one.trained_on_folds] == ["p", "q"]
    assert [study.start_of(name) for name in study.experiments] == [None, None, "full", None]


def test_swapped_adapters_are_those_of_the_user_some_places_on() -> None:
    swapped = {"mode": "lora", "adapters_of": "p"}
    study = study_with({"p": {**PERSONAL, "start_from": "full"}, "s": swapped, "t": {**swapped, "shift": 2}})
    assert study.adapter_owners("s") == {"1": "2", "2": "3", "3": "1"}
    assert study.adapter_owners("t") == {"1": "3", "2": "1", "3": "2"}
    assert study.adapter_owners("p") == {}
    assert study.start_of("s") == "full"
    assert not study.experiments["s"].trained
    assert study.experiments["s"].training is None


def test_sweeps_give_every_pair_of_user_and_adapter_and_numbers_of_samples() -> None:
    study = study_with(
        {
            "p": {**PERSONAL, "sweep": {"samples": [10, "all"]}},
            "q": PERSONAL,
            "s": {"mode": "lora", "adapters_of": "q", "sweep": {"shift": [1, 2]}},
        }
    )
    assert [one.samples for one in study.experiments.values() if one.group == "p"] == [10, "all"]
    swapped = [name for name, one in study.experiments.items() if one.group == "s"]
    pairs = {pair for name in swapped for pair in study.adapter_owners(name).items()}
    assert pairs == {(user, owner) for user in "123" for owner in "123" if user != owner}


def test_a_matrix_of_adapters_is_one_experiment_for_each_other_user_and_one_setting(tmp_path: Path) -> None:
    study = study_with({"p": PERSONAL, "m": MATRIX})
    assert study.groups == {"m": ("m_shift1", "m_shift2")}
    pairs = {pair for name in study.groups["m"] for pair in study.adapter_owners(name).items()}
    assert pairs == {(user, owner) for user in "123" for owner in "123" if user != owner}
    assert study.matrices == {"m": "p"}
    assert not study.has_several_settings("m")
    file = tmp_path / "study.yaml"
    file.write_text(study_text(study, {}))
    assert load_study([file]).experiments == study.experiments
    # Other users in the command line make another matrix.
    assert load_study([file], ["test_users=1-3"]).groups == study.groups
    with pytest.raises(UserError, match="does not have each shift from 1 to 3 once"):
        load_study([file], ["test_users=1-4"])


def test_the_copies_of_a_study_load_as_the_same_experiments(tmp_path: Path) -> None:
    study = study_with(
        {
            "p": {**PERSONAL, "start_from": "full", "samples": 10, "training": {"warmup_steps": 3}},
            "q": {"mode": "lora", "scope": "pooled", "like": "p", "training": {"epochs": 3}},
            "s": {"mode": "lora", "adapters_of": "p", "shift": 2},
        }
    )
    file, resolved = tmp_path / "study.yaml", tmp_path / "study.json"
    file.write_text(study_text(study, {}))
    resolved.write_text(resolved_text(study))
    for copy in (load_study([file]), read_resolved(resolved)):
        assert (copy.experiments, copy.folds) == (study.experiments, study.folds)


def test_personal_weights_alone_need_no_training_users() -> None:
    users = {"train": [], "test": "1-3"}
    study = study_from_config({**_plain(), "users": users, "experiments": {"p": PERSONAL}})
    assert not study.users.train


def _plain() -> dict[str, Any]:
    return {
        "name": "scopes",
        "dataset": {"root": "dataset"},
        "base_model": {"path": "base"},
        "folds": {"count": 2},
    }
