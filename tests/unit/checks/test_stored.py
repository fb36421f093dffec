"""Prediction jobs that only collect stored answers, and need neither a GPU nor an allocation."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import usertune.checks.freshness as freshness_module
from tests.support.synthetic_study import SyntheticStudy
from usertune.checks.explain import explain, in_words
from usertune.checks.freshness import Freshness
from usertune.checks.stored import count_stored, only_to_collect


def to_collect(study: SyntheticStudy) -> list[str]:
    return [result.manifest for result in only_to_collect(Freshness(study.study, study.recipes))]


def regrouped(study: SyntheticStudy) -> SyntheticStudy:
    return replace(study, users_per_job=1)


def test_nothing_is_collected_where_all_predictions_hold(complete: SyntheticStudy) -> None:
    assert to_collect(complete) == []


def test_users_in_other_groups_are_collected(complete: SyntheticStudy) -> None:
    expected = [f"predictions/{name}/users_{user}.json" for name in complete.experiments for user in complete.users]
    assert to_collect(regrouped(complete)) == expected


def test_a_plan_in_which_answers_are_only_collected_names_no_gpu(complete: SyntheticStudy) -> None:
    study = regrouped(complete)
    said = in_words(explain(Freshness(study.study, study.recipes)))
    jobs = len(complete.experiments) * len(complete.users)
    assert f"  {jobs} prediction jobs\n    0 samples to generate, {jobs * complete.samples} are stored" in said
    assert "GPU" not in said


def test_a_prediction_that_was_deleted_or_damaged_is_collected(complete: SyntheticStudy) -> None:
    Path("predictions/lora/users_1-2.json").unlink()
    with Path("predictions/vanilla/users_1-2.json").open("a") as file:
        file.write(" ")
    assert to_collect(complete) == ["predictions/vanilla/users_1-2.json", "predictions/lora/users_1-2.json"]


def test_an_answer_that_is_not_stored_has_to_be_generated(complete: SyntheticStudy) -> None:
    study = regrouped(complete)
    freshness = Freshness(study.study, study.recipes)
    result = freshness.results["predictions/lora/users_2.json"]
    assert count_stored(freshness, result, "data/user_2.manifest.json") == (complete.samples, 0)
    prediction = next(Path("store/predictions").glob("*/user_2/*.jsonl"))
    prediction.write_text("".join(prediction.read_text().splitlines(keepends=True)[1:]))
    assert len(to_collect(study)) == len(complete.users) * len(complete.experiments) - 1


def test_nothing_is_collected_while_what_lies_upstream_may_change(complete: SyntheticStudy) -> None:
    study = regrouped(complete)
    assert not any("/lora/" in path for path in to_collect(replace(study, changes={"training": {"epochs": 2}})))
    Path("data/user_2.jsonl").unlink()
    assert not any("users_2.json" in path for path in to_collect(study))
    Path("base_model/manifest.json").unlink()
    assert to_collect(study) == []


def test_a_setting_that_is_set_back_finds_its_answers(complete: SyntheticStudy) -> None:
    other = replace(complete, changes={"evaluation": {**complete.study.evaluation.model_dump(), "max_new_tokens": 7}})
    assert to_collect(other) == [], "other answers"
    for path in other.results:
        if path.startswith("predictions/"):
            other.make(path)
    assert to_collect(other) == []
    assert len(to_collect(complete)) == len([path for path in complete.results if path.startswith("predictions/")])


def test_samples_are_read_once_and_only_where_answers_are_stored(
    complete: SyntheticStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = regrouped(complete)
    read: list[Path] = []
    original = freshness_module.read_user
    monkeypatch.setattr(freshness_module, "read_user", lambda path: (read.append(path), original(path))[1])
    assert in_words(explain(Freshness(study.study, study.recipes)))
    assert len(read) == len(set(read)) == len(complete.users)
    read.clear()
    shutil.rmtree("store/predictions")
    jobs = len(complete.experiments) * len(complete.users)
    said = in_words(explain(Freshness(study.study, study.recipes)))
    assert f"{jobs * complete.samples} samples to generate, 0 are stored" in said
    assert read == []
