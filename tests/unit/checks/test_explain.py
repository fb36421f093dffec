"""Why a result would be made again, and what is said of the cost."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.synthetic_study import SyntheticStudy
from usertune.checks.explain import Explanation, explain, in_words
from usertune.checks.freshness import Freshness
from usertune.core.errors import UserError
from usertune.pipeline import steps
from usertune.pipeline.steps import OF_COSTS
from usertune.study.schema.report import FIGURE_NAMES

ONE_SCORE = "scores/vanilla/user_1.json"
# Users of the prediction job that this score needs.
BATCH = 2
AFTER_SCORES = {"compare": 1, "figure": len({*FIGURE_NAMES} - {*OF_COSTS}), "audit": 1, "report": 1}


def explained(study: SyntheticStudy, target: str = steps.REPORT.manifest) -> Explanation:
    return explain(Freshness(study.study, study.recipes), target)


def with_changes(study: SyntheticStudy, **changes: object) -> SyntheticStudy:
    return replace(study, changes={**study.changes, **changes})


def test_nothing_to_do(complete: SyntheticStudy) -> None:
    assert explained(complete) == Explanation("report")
    assert in_words(explained(complete)) == "report: up to date, nothing would run."


def test_nothing_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = SyntheticStudy(Path())
    for user in study.study.all_users:
        study.write_raw(user)
    found = explained(study)
    assert found.jobs["train"] == 2
    assert found.jobs["score"] == len(study.users) * 3
    assert (found.to_generate, found.stored, found.unknown) == (0, 0, len(study.users) * 3 * study.samples)
    assert "does not exist yet" in in_words(found)


def test_changed_setting_is_named_with_both_values(complete: SyntheticStudy) -> None:
    found = explained(with_changes(complete, training={"epochs": 2}))
    trainings = [f"training of {name}" for name in complete.training_logs()]
    assert found.causes["training.epochs: 1.0 -> 2.0"] == trainings
    assert all(text.endswith("trains from the beginning") for text in found.trainings)
    assert found.jobs["train"] == len(trainings)
    assert "prepare" not in found.jobs


def test_only_what_the_target_is_made_from_counts(complete: SyntheticStudy) -> None:
    changed = with_changes(complete, training={"epochs": 2})
    assert explained(changed, ONE_SCORE).jobs == {}
    assert explained(changed, ONE_SCORE.replace(".json", ".csv")).jobs == {}
    with pytest.raises(UserError, match="no such result"):
        explained(changed, "scores/nobody.json")


def test_threshold_costs_no_gpu_job(complete: SyntheticStudy) -> None:
    found = explained(with_changes(complete, evaluation={**complete.study.evaluation.model_dump(), "thresholds": [70]}))
    assert found.jobs == {"score": len(complete.users) * len(complete.experiments), **AFTER_SCORES}


def test_stored_answers_and_finished_trainings_are_found(complete: SyntheticStudy) -> None:
    for path in [*Path("predictions").rglob("*.json"), *Path("checkpoints").glob("*/manifest.json")]:
        path.unlink()
    found = explained(complete)
    assert all(text.endswith("already trained, will be reused") for text in found.trainings)
    vanilla = explained(complete, ONE_SCORE)
    assert (vanilla.to_generate, vanilla.stored, vanilla.unknown) == (0, BATCH * complete.samples, 0)
    shutil.rmtree("store")
    vanilla = explained(complete, ONE_SCORE)
    assert (vanilla.to_generate, vanilla.stored, vanilla.unknown) == (BATCH * complete.samples, 0, 0)


def test_working_checkpoint_is_seen(complete: SyntheticStudy) -> None:
    (marker,) = Path("checkpoints/lora").glob("*/complete.json")
    marker.unlink()
    (marker.parent / "checkpoint-10").mkdir()
    Path("checkpoints/lora/manifest.json").unlink()
    assert explained(complete).trainings == ["training of lora: resumes from a working checkpoint"]


def test_comparison_with_todays_code_is_a_reason(complete: SyntheticStudy) -> None:
    found = explained(with_changes(complete, rerun={"on_code_change": True}), "data/user_1.manifest.json")
    assert found.jobs == {"prepare": 1}
    (reason,) = found.causes
    assert "rerun.on_code_change is set" in reason
