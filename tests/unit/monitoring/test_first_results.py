"""The results of experiments during a run."""

from __future__ import annotations

import csv
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.support.synthetic_study import SyntheticStudy
from usertune.monitoring.first_results import FirstResults


def said(first: FirstResults, experiment: str) -> list[str]:
    return [text.plain for text in first.after(experiment)]


def of_summary(experiment: str) -> str:
    with Path("tables/summary.csv").open(newline="") as file:
        (row,) = (row for row in csv.DictReader(file) if row["experiment"] == experiment)
    return f"{100 * float(row['click_accuracy']):.1f}"


def test_the_result_is_that_of_the_summary_and_comes_once(complete: SyntheticStudy) -> None:
    first = FirstResults(complete.study, complete.recipes)
    for name in complete.study.experiments:
        users = len(complete.study.users.test)
        assert said(first, name) == [f"{name}: click accuracy (%) {of_summary(name)}, the mean of {users} test users"]
        assert said(first, name) == []


def test_an_experiment_waits_for_its_last_user(complete: SyntheticStudy, tmp_path: Path) -> None:
    name, *_ = complete.study.experiments
    score = Path(complete.study.results, f"scores/{name}/user_{complete.study.users.test[-1]}.json")
    moved = shutil.move(score, tmp_path / "score.json")
    first = FirstResults(complete.study, complete.recipes)
    assert said(first, name) == []
    shutil.move(moved, score)
    assert len(said(first, name)) == 1


def test_scores_of_an_earlier_run_do_not_count(complete: SyntheticStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *_ = complete.study.experiments
    score = f"scores/{name}/user_{complete.study.users.test[0]}.json"
    is_stale = True

    def holds(_: object, path: str) -> bool:
        return not (is_stale and path == score)

    monkeypatch.setattr("usertune.monitoring.first_results.Freshness.holds", holds)
    first = FirstResults(complete.study, complete.recipes)
    assert said(first, name) == []
    is_stale = False
    # It is not asked for again before it is written.
    assert said(first, name) == []
    later = time.time() + 5
    os.utime(Path(complete.study.results, score), (later, later))
    assert len(said(first, name)) == 1
