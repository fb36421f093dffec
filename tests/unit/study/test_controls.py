"""What experiments need that use samples of users to answer others: refused by key where it is missing."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from usertune.core.errors import UserError
from usertune.study.copy import study_text
from usertune.study.load import study_from_config
from usertune.study.schema.study import Study


def load(experiment: dict[str, Any], **changes: Any) -> Study:
    config: dict[str, Any] = {
        "name": "small",
        "dataset": {"root": "data"},
        "users": {"train": "3-5", "test": "1-2"},
        "base_model": {"path": "base"},
        "folds": {"count": 3},
        "experiments": {"control": experiment},
    }
    return study_from_config({**config, **changes})


@pytest.mark.parametrize(
    ("experiment", "changes", "message"),
    [
        ({"mode": "vanilla", "prior": {}}, {}, "experiments.control: prior: only for mode prior"),
        ({"mode": "prior", "training": {"epochs": 2}}, {}, "an experiment of mode prior is not trained; remove its"),
        ({"mode": "prior", "gpus": 2}, {}, "an experiment of mode prior is not trained; remove gpus"),
        ({"mode": "prior", "max_new_tokens": 2}, {}, "an experiment of mode prior has no model; remove max_new_tokens"),
        ({"mode": "prior", "answers": "a.jsonl"}, {}, "mode prior finds its own answers; remove answers"),
        ({"mode": "prior", "engine": "transformers"}, {}, "an experiment of mode prior has no model; remove engine"),
        ({"mode": "prior", "prior": {"of": "users"}}, {}, "experiments.control.prior.of: 'users' is not allowed"),
        (
            {"mode": "prior", "prior": {"of": "same_user"}},
            {"folds": None},
            "experiments.control.prior: of: same_user needs folds of each user's own samples",
        ),
        ({"mode": "prior", "context": {}}, {}, "an experiment of mode prior has no model; remove context"),
        ({"mode": "vanilla", "answers": "a.jsonl", "context": {}}, {}, "remove one of answers and context"),
        ({"mode": "lora", "context": {"episodes": 4, "samples": 3}}, {}, "samples (3) is below episodes (4)"),
        (
            {"mode": "full", "context": {}},
            {"folds": None},
            "experiments.control.context: of: same_user needs folds of each user's own samples",
        ),
        (
            {"mode": "vanilla", "context": {"of": "other_user"}},
            {"users": {"test": "1"}},
            "experiments.control.context: of: other_user: users.test has one user",
        ),
        ({"mode": "prior"}, {"users": {"test": "1-2"}}, "experiments.control.prior: of: train_users: users.train is"),
        (
            {"mode": "prior", "prior": {"of": "centre"}},
            {"dataset": {"root": "data", "task": "text"}},
            "tasks with points are: grounding, action",
        ),
    ],
)
def test_a_control_that_cannot_be_made_is_refused_with_what_to_do(
    experiment: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        load(experiment, **changes)
    assert message in str(refused.value)


def test_a_prior_without_settings_is_where_most_training_users_tap_and_its_copy_loads() -> None:
    study = load({"mode": "prior"}, folds=None)
    prior = study.experiments["control"].prior
    assert prior is not None
    assert (prior.of, prior.point) == ("train_users", "densest")
    assert not study.experiments["control"].trained
    assert not study.experiments["control"].generated
    assert study_from_config(yaml.safe_load(study_text(study, {}))).experiments == study.experiments
