"""Which prediction jobs of a run may answer for each other on one loaded base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.synthetic_study import SyntheticStudy
from usertune.checks.freshness import Freshness
from usertune.checks.shared_base import jobs_that_share
from usertune.core.errors import UserError
from usertune.core.hashing import digest
from usertune.core.manifest import read_manifest
from usertune.study.load import study_from_config
from usertune.study.schema.study import Study

BOTH = ("predictions/lora/users_1-2.json", "predictions/lora/users_10,ana.json")


def _named(study: SyntheticStudy, *targets: str) -> list[list[str]]:
    shared = jobs_that_share(Freshness(study.study, study.recipes), targets)
    return [
        [Path(job.predictions).relative_to(study.study.results).as_posix() for job in group] for group in shared.groups
    ]


def test_jobs_that_a_run_makes_share_a_base_model_and_no_others(complete: SyntheticStudy) -> None:
    assert _named(complete) == []
    for path in (*BOTH, "predictions/vanilla/users_1-2.json", "predictions/full_tuned/users_1-2.json"):
        Path(path).unlink()
    found = _named(complete)
    assert found == [list(BOTH)], "neither the base model itself nor complete models"
    # What is asked for decides: an experiment, the report, a file.
    results = complete.study.results
    assert _named(complete, "lora") == _named(complete, "all") == _named(complete, "report") == found
    assert _named(complete, "vanilla") == _named(complete, "check") == []
    assert _named(complete, f"{results}/scores/lora/user_1.csv") == []
    assert _named(complete, f"{results}/scores/lora/user_1.csv", f"{results}/scores/lora/user_ana.json") == found


def test_a_job_is_described_by_the_files_and_recipes_of_its_own_rule(complete: SyntheticStudy) -> None:
    for path in BOTH:
        Path(path).unlink()
    (group,) = jobs_that_share(Freshness(complete.study, complete.recipes), []).groups
    assert [job.recipe.as_json() for job in group] == [complete.recipe(path) for path in BOTH]
    assert [len(job.users) for job in group] == [2, 2]
    (weights,) = group[0].weights
    # What tells weights of this study from those of an earlier run.
    assert digest(read_manifest(Path(weights))["recipe"]) == group[0].recipe.upstream["train"]


def _study(experiments: dict[str, Any], share: bool = True, **changes: Any) -> Study:
    return study_from_config(
        {
            "name": "small",
            "dataset": {"root": "data"},
            "users": {"train": "9", "test": "1-3"},
            "folds": {"count": 2},
            "base_model": {"path": "base"},
            "experiments": experiments,
            "evaluation": {"share_base": share, **changes},
        }
    )


SERVER = {"kind": "openai", "url": "http://localhost:1/v1", "model": "m", "adapters": True}


def test_experiments_share_if_they_differ_in_their_adapters_alone() -> None:
    study = _study(
        {
            "vanilla": {"mode": "vanilla"},
            "lora": {"mode": "lora"},
            "full": {"mode": "full"},
            "seeds": {"mode": "lora", "sweep": {"seed": [1, 2]}},
            "long": {"mode": "lora", "max_new_tokens": 999},
            "served": {"mode": "lora", "engine": SERVER},
            "plain": {"mode": "lora", "scope": "personal"},
            "personal": {"mode": "lora", "scope": "personal", "start_from": "full"},
            "swapped": {"mode": "lora", "adapters_of": "personal"},
            "their_answers": {"mode": "lora", "answers": "answers.jsonl"},
            "their_weights": {"mode": "lora", "weights": "adapter"},
        }
    )
    assert study.sharing == (
        ("lora", "seeds_seed1", "seeds_seed2", "plain", "their_weights"),
        ("personal", "swapped"),
    )


@pytest.mark.parametrize(
    "experiments", [{"vanilla": {"mode": "vanilla"}, "full": {"mode": "full"}}, {"lora": {"mode": "lora"}}]
)
def test_a_study_in_which_nothing_can_be_shared_is_refused(experiments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"evaluation\.share_base: no two prediction jobs can share a base model: that"):
        _study(experiments)
    assert _study(experiments, share=False).sharing == ()


def test_one_experiment_shares_among_its_batches_of_users() -> None:
    assert _study({"lora": {"mode": "lora"}}, users_per_job=2).sharing == (("lora",),)
