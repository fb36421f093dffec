"""Targets that there are not, and what is said of them."""

from __future__ import annotations

import pytest

from tests.support.synthetic_study import SyntheticStudy
from usertune.pipeline.targets import NAMES, problem
from usertune.study.load import study_from_config


def _said(study: SyntheticStudy, *targets: str) -> str | None:
    return problem(study.study, study.results, targets)


def test_everything_that_can_be_asked_for_is_known(complete: SyntheticStudy) -> None:
    results = complete.study.results
    files = [f"{results}/{name}" for item in complete.results.values() for name in (item.manifest, *item.files)]
    assert _said(complete, *NAMES, *complete.study.experiments, *files, f"{results}/logs/train/lora.log") is None
    assert _said(complete) is None


def test_a_group_of_experiments_is_a_target() -> None:
    sweep = {"mode": "lora", "sweep": {"seed": [0, 1]}}
    study = study_from_config(
        {
            "name": "small",
            "dataset": {"root": "data"},
            "users": {"train": "2", "test": "1"},
            "base_model": {"path": "base"},
            "experiments": {"seeds": sweep},
        }
    )
    assert problem(study, {}, ["seeds", "seeds_seed0"]) is None


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("lorra", "lorra: there is no such target; did you mean lora?"),
        ("xyz", "xyz: there is no such target\nTargets are: all, check, leakage, base_model, compare, audit, report, "),
        ("{results}/scores/lora/user_99.csv", "no such file; did you mean"),
        ("{results}/scores/lora/user_99.csv", "Such files exist for users 1-2,10,ana."),
        ("{results}/tables/sumary.csv", "did you mean {results}/tables/summary.csv"),
        ("train", "ask for an experiment, or a file such as {results}/checkpoints/lora/manifest.json"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(target: str, said: str, complete: SyntheticStudy) -> None:
    results = complete.study.results
    assert said.format(results=results) in (_said(complete, target.format(results=results)) or "")
