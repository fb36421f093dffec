"""Which engine answers for an experiment, and its settings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from usertune.core.errors import UserError
from usertune.pipeline.recipes import Recipes
from usertune.study.copy import study_text
from usertune.study.load import load_study, study_from_config
from usertune.study.schema.study import Study

NAMED = {"mode": "vanilla", "engine": "transformers"}


def study(engine: Any = None, **experiments: Any) -> Study:
    evaluation = {} if engine is None else {"evaluation": {"engine": engine}}
    return study_from_config(
        {
            "name": "small",
            "dataset": {"root": "data"},
            "users": {"test": 1},
            "base_model": {"path": "base"},
            "experiments": experiments or {"vanilla": {"mode": "vanilla"}},
            **evaluation,
        }
    )


@pytest.mark.parametrize("written", [None, "transformers", {"kind": "transformers"}])
def test_the_default_engine_is_no_part_of_recipes(written: Any) -> None:
    made = study(written)
    assert made.engine_of("vanilla").kind == "transformers"
    assert made.engine_of("vanilla").needs_gpu
    assert not {key for key in json.loads(Recipes(made).predict("vanilla")) if key.startswith("engine")}
    assert Recipes(made).predict("vanilla") == Recipes(study()).predict("vanilla")


def test_an_experiment_has_its_own_engine_or_that_of_the_study() -> None:
    made = study("transformers", one={"mode": "vanilla"}, two=NAMED)
    assert made.engine_of("one") == made.engine_of("two") == made.evaluation.engine


def test_a_copy_of_the_study_loads_as_the_same_study(tmp_path: Any) -> None:
    made = study({"kind": "transformers"}, two=NAMED)
    (tmp_path / "study.yaml").write_text(study_text(made, {}))
    again = load_study([tmp_path / "study.yaml"])
    assert (again.evaluation, again.experiments) == (made.evaluation, made.experiments)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("transformer", "evaluation.engine.kind: 'transformer' is not allowed; use one of: 'transformers'"),
        ({"kind": "nope"}, "evaluation.engine.kind: 'nope' is not allowed"),
        ({"kind": "transformers", "url": "x"}, "evaluation.engine.url: unknown setting; those of the engine"),
        (5, "evaluation.engine: 5 is not allowed"),
        (["transformers"], "evaluation.engine: ['transformers'] is not allowed"),
    ],
)
def test_a_mistake_names_the_key(engine: Any, message: str) -> None:
    with pytest.raises(UserError) as refused:
        study(engine)
    assert message in str(refused.value)
    with pytest.raises(UserError) as refused:
        study(None, other={"mode": "vanilla", "engine": engine})
    assert message.replace("evaluation.engine", "experiments.other.engine") in str(refused.value)
