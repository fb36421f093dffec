"""An experiment of answers from elsewhere: made, scored, compared, audited, explained, and again only what changed."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from tests.support.auditing import audit, found, reasons
from tests.support.synthetic_study import BASE, SyntheticStudy
from usertune.checks.explain import explain, in_words
from usertune.checks.freshness import Freshness
from usertune.checks.preflight import check_sources
from usertune.checks.stored import only_to_collect
from usertune.core.errors import UserError
from usertune.core.manifest import read_result, write_result
from usertune.data.samples import read_user
from usertune.monitoring.jobs import read_jobs
from usertune.monitoring.status import status_of
from usertune.pipeline import steps
from usertune.study.copy import public_study_text, read_resolved, resolved_text, study_text
from usertune.study.load import load_study

OWN = "predictions/theirs/users_1-2.json"
OTHER = "predictions/theirs/users_3.json"
CHANGES: dict[str, Any] = {
    "experiments": {"vanilla": {"mode": "vanilla"}, "theirs": {"mode": "lora", "answers": "given/{user}.jsonl"}},
}


def write_answers(study: SyntheticStudy, user: str, off: int = 30) -> Path:
    _, samples = read_user(study.root / f"data/user_{user}.manifest.json")
    lines = []
    for sample in samples:
        x, y = sample["target"]["point"]
        lines.append(json.dumps({"id": sample["id"], "response": f"```grounding\n[{x}, {y + off}]\n```"}))
    path = study.root / f"given/{user}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def make(root: Path) -> SyntheticStudy:
    study = SyntheticStudy(root, users=["1", "2", "3"], samples=3, users_per_job=2, changes=CHANGES)
    # First, since code versions depend on its family.
    shutil.copytree(BASE, root / "base")
    for user in study.study.all_users:
        study.write_raw(user)
    study.make_all("prepare", "leakage")
    for user in study.users:
        write_answers(study, user)
    return study


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere")
    with chdir(folder):
        study = make(Path())
        study.write()
        study.report()
    return folder


@pytest.fixture
def finished(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SyntheticStudy:
    """A finished study in the working directory, in which files have the times of the template's."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return SyntheticStudy(Path(), users=["1", "2", "3"], samples=3, users_per_job=2, changes=CHANGES)


def again(study: SyntheticStudy) -> set[str]:
    """Return the results that would be made again by themselves."""
    freshness = Freshness(study.study, study.recipes)
    return {path for path in freshness.results if not freshness.holds(path)}


def test_such_an_experiment_needs_neither_base_model_nor_training(finished: SyntheticStudy) -> None:
    results = finished.results
    used = {role: paths for role, paths in results[OWN].inputs.items() if paths}
    assert used == {"samples": ("data/user_1.manifest.json", "data/user_2.manifest.json")}
    assert not any(result.step == "train" for result in results.values())
    rows = read_result(OWN)["predictions"]
    assert [row["id"] for row in rows] == [f"{user}/{step}" for user in "12" for step in range(3)]
    assert all(row["stopped"] is None for row in rows)
    assert read_result("scores/theirs/user_1.json")["click_accuracy"] == 1
    assert audit(finished).findings == []
    assert audit(finished).environment_mismatches == []
    assert in_words(explain(Freshness(finished.study, finished.recipes))).endswith("up to date, nothing would run.")


def test_the_report_says_where_the_answers_come_from(finished: SyntheticStudy) -> None:
    digest = read_result(OWN)["answers_files"]["given/1.jsonl"]
    report = Path("report.html").read_text()
    assert "answers from elsewhere (given/{user}.jsonl)" in report
    assert f'1.jsonl <code title="{digest}">' in report
    provenance = json.loads(Path("provenance.json").read_text())
    (source,) = (item for item in provenance["@graph"] if "from elsewhere" in item.get("name", ""))
    assert source["name"] == "theirs: answers from elsewhere (given/{user}.jsonl)"
    assert digest in json.dumps(provenance)
    assert "theirs: answers from elsewhere (given/{user}.jsonl)" in Path("tables/summary.md").read_text()


def test_a_replaced_file_makes_its_batch_again_and_a_touched_one_changes_no_score(finished: SyntheticStudy) -> None:
    path = write_answers(finished, "1", off=500)
    freshness = Freshness(finished.study, finished.recipes)
    said = list(freshness.reasons(OWN))
    assert said == ["paths, sizes or times of its answers from elsewhere changed since they were read"]
    assert not list(freshness.reasons(OTHER))
    assert ("stale", OWN) in found(finished)
    assert f"{path}, from elsewhere, changed" in reasons(finished)
    finished.make(OWN)
    assert list(Freshness(finished.study, finished.recipes).not_from_upstream("scores/theirs/user_1.json"))
    assert not list(Freshness(finished.study, finished.recipes).not_from_upstream("scores/theirs/user_2.json"))
    assert again(finished) >= {"scores/theirs/user_1.json", steps.COMPARE.manifest}
    assert not again(finished) & {"scores/theirs/user_2.json", "scores/theirs/user_3.json", OTHER}

    before = read_result(OTHER)
    os.utime("given/3.jsonl", (1, 1))
    assert list(Freshness(finished.study, finished.recipes).reasons(OTHER))
    # The audit compares the content.
    assert ("stale", OTHER) not in found(finished)
    finished.make(OTHER)
    assert read_result(OTHER) == {**before, "answers_state": read_result(OTHER)["answers_state"]}
    assert not list(Freshness(finished.study, finished.recipes).not_from_upstream("scores/theirs/user_3.json"))


def test_answers_that_were_edited_in_the_predictions_are_found(finished: SyntheticStudy) -> None:
    predictions = read_result(OWN)
    predictions["predictions"][0]["text"] = "```grounding\n[1, 1]\n```"
    write_result(OWN, predictions)
    assert "made from other versions of the answers in it" in reasons(finished)


def test_a_missing_file_and_a_bad_answer_are_told(finished: SyntheticStudy) -> None:
    Path("given/3.jsonl").unlink()
    with pytest.raises(UserError, match=r"experiments\.theirs\.answers: no file for user 3: given/3"):
        check_sources(finished.study)
    assert ("stale", OTHER) in found(finished)
    Path("given/3.jsonl").write_text('{"id": "3/0", "text": "x"}\n')
    check_sources(finished.study)
    with pytest.raises(UserError, match="no answer for 2 samples of user 3: '3/1', '3/2'"):
        finished.make(OTHER)


def test_explain_status_and_the_store_know_of_them(finished: SyntheticStudy) -> None:
    Path(OWN).unlink()
    freshness = Freshness(finished.study, finished.recipes)
    assert only_to_collect(freshness) == []
    explanation = explain(freshness)
    assert (explanation.without_model, explanation.to_generate, explanation.unknown) == (1, 0, 0)
    said = in_words(explanation)
    assert "  1 prediction job\n" in said
    assert "1 of the jobs need no model" in said
    status = status_of(freshness, read_jobs(Path()))
    own = [row.state for row in status.rows if (row.step, row.experiment) == ("predict", "theirs")]
    assert own == ["waiting", "done"]
    assert status.seconds_left is None


def test_copies_of_the_study_keep_the_path(finished: SyntheticStudy, tmp_path: Path) -> None:
    study = finished.study
    (tmp_path / "resolved.json").write_text(resolved_text(study))
    assert read_resolved(tmp_path / "resolved.json") == study
    (tmp_path / "copy.yaml").write_text(study_text(study, {}))
    copied = load_study([tmp_path / "copy.yaml"])
    assert copied.experiments["theirs"].answers == str(tmp_path / "given/{user}.jsonl")
    assert str(tmp_path) not in public_study_text(study, "base", None)
