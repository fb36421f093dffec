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
            "users": {"train": 2, "test": 1},
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


SERVER = {"kind": "openai", "url": "http://h:1/v1", "model": "m"}
SECRET = "sk-geheim"


def test_a_server_needs_no_gpu() -> None:
    made = study("transformers", here={"mode": "vanilla"}, there={"mode": "vanilla", "engine": SERVER})
    assert [made.engine_of(name).needs_gpu for name in ("here", "there")] == [True, False]
    assert json.loads(Recipes(made).predict("there"))["engine_settings"] == {"url": "http://h:1/v1", "model": "m"}


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        ({"api_key": SECRET}, "", "api_key: a key does not belong in a study"),
        ({"API-Key": SECRET}, "", "API-Key: a key does not belong in a study"),
        ({"Authorization": SECRET}, "", "Authorization: a key does not belong in a study"),
        ({"parameters": {"api_key": SECRET}}, "", "parameters.api_key: a key does not belong in a study"),
        ({"api_key_env": SECRET}, ".api_key_env", "the name of an environment variable is needed"),
        ({"api_key_env": "sk_geheim"}, ".api_key_env", "the name of an environment variable is needed"),
        ({"url": f"https://me:{SECRET}@h/v1"}, ".url", "the URL has a user, a password or parameters; a key does not"),
        ({"url": f"https://h/v1?key={SECRET}"}, ".url", "the URL has a user, a password or parameters"),
        ({"url": f"{SECRET}"}, ".url", "the URL of a server begins with http:// or https://"),
        ({"url": "http://h:x/v1"}, ".url", "this is not a URL"),
        ({"url": None}, "", "set either url, the address of the server, or url_env"),
        ({"url_env": "SERVER"}, "", "set either url, the address of the server, or url_env"),
        ({"parameters": {"messages": []}}, "", "parameters: messages cannot be set here"),
        ({"model": ""}, ".model", "at least 1 character"),
        ({"retries": -1}, ".retries", "greater than or equal to 0"),
        ({"tiemout": 3}, ".tiemout", "unknown setting; those of the engine openai are: url, url_env, model,"),
    ],
)
def test_a_mistake_about_a_server_names_the_key_and_shows_no_secret(
    settings: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(UserError) as refused:
        study({**SERVER, **settings})
    assert f"evaluation.engine{key}: " in str(refused.value)
    assert message in str(refused.value)
    assert "geheim" not in str(refused.value)


def test_a_server_cannot_answer_with_trained_weights() -> None:
    with pytest.raises(
        UserError, match=r"experiments.lora.engine: a server answers with its own model, not with the w"
    ):
        study(SERVER, lora={"mode": "lora"}, vanilla={"mode": "vanilla"})


def test_adapters_of_an_experiment_are_answered_by_a_server_that_has_them() -> None:
    served = {**SERVER, "adapters": True}
    experiments = {"vanilla": {"mode": "vanilla"}, "lora": {"mode": "lora", "engine": served}}
    made = study(None, **experiments)
    settings = json.loads(Recipes(made).predict("lora"))["engine_settings"]
    # How adapters are checked changes no answer.
    assert settings == {"url": "http://h:1/v1", "model": "m"}
    assert json.loads(made.engine_of("lora").options.execution()) == {"adapters": True}
    with pytest.raises(UserError, match=r"experiments.full.engine: a server answers with its own model"):
        study(None, **experiments, full={"mode": "full", "engine": served})


def test_adapters_on_another_adapter_cannot_be_served() -> None:
    with pytest.raises(UserError, match=r"experiments.own.engine: its adapters start from another adapter"):
        study_from_config(personal("lora"))
    assert study_from_config(personal("full")).engine_of("own").kind == "openai"


def personal(start: str) -> dict[str, Any]:
    """Return a study whose personal adapters start from an experiment of a mode."""
    engine = {**SERVER, "adapters": True}
    return {
        "name": "small",
        "dataset": {"root": "data"},
        "users": {"train": 2, "test": 1},
        "base_model": {"path": "base"},
        "folds": {"count": 2},
        "experiments": {
            "first": {"mode": start},
            "own": {"mode": "lora", "scope": "personal", "start_from": "first", "engine": engine},
        },
    }
