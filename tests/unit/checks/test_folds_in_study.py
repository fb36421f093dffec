"""A study with experiments on folds: its audit, status, explanation and report, and what an edit makes stale."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.stand_ins import StandInEngine
from tests.support.synthetic_study import SyntheticStudy
from usertune.checks.audit import Audit, audit_study
from usertune.checks.explain import Explanation, explain, in_words
from usertune.checks.freshness import Freshness
from usertune.checks.stored import count_stored, only_to_collect
from usertune.core.errors import UserError
from usertune.core.manifest import read_manifest
from usertune.evaluation.tables import read_table
from usertune.exchange.export_model import HubFolder, export_model
from usertune.monitoring.jobs import read_jobs
from usertune.monitoring.status import Status, status_of
from usertune.pipeline import steps
from usertune.pipeline.layout import experiment_of_rule, job_of, step_of_rule

SETTINGS: dict[str, Any] = {
    "experiments": ["vanilla", "full_tuned", "personal", "pooled", "others"],
    "samples": 4,
    "users_per_job": 2,
}
PERSONAL = "checkpoints/personal/users_1.json"
POOLED = "checkpoints/pooled/users_1-2,10,ana.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    with chdir(folder):
        SyntheticStudy(Path(), **SETTINGS).write().report()
    return folder


@pytest.fixture
def study(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SyntheticStudy:
    shutil.copytree(whole, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return SyntheticStudy(Path(), **SETTINGS)


def explained(study: SyntheticStudy) -> Explanation:
    return explain(Freshness(study.study, study.recipes), steps.REPORT.manifest)


def inspect(study: SyntheticStudy) -> Status:
    return status_of(Freshness(study.study, study.recipes), read_jobs(Path()))


def edit(study: SyntheticStudy, user: str, step: int) -> None:
    """Change the expected answer of one sample, and prepare the user again."""
    file = study.dataset / f"user_{user}.jsonl"
    lines = file.read_text().splitlines()
    sample = json.loads(lines[step])
    sample["messages"][-1]["content"] = "```grounding\n[7, 8]\n```"
    lines[step] = json.dumps(sample)
    file.write_text("\n".join(lines) + "\n")
    study.make(f"data/user_{user}.manifest.json")


def test_rules_of_folds_name_experiment_and_users(study: SyntheticStudy) -> None:
    rules = {path: job_of(study.study, study.results[path])[0] for path in (PERSONAL, POOLED)}
    assert rules == {
        PERSONAL: "train_folds-personal-users-1-2",
        POOLED: "train_folds-pooled-users-1-2,10,ana",
    }
    assert {step_of_rule(rule) for rule in rules.values()} == {"train_folds"}
    assert [experiment_of_rule(rule) for rule in rules.values()] == ["personal", "pooled"]
    others = {"score users users 1-5": "users", "prepare users 1-5": None, "train": None, "lora": None}
    assert {rule: experiment_of_rule(rule) for rule in others} == others


def test_all_results_are_there_and_pass_the_audit(study: SyntheticStudy) -> None:
    of_step = [result.item for result in study.results.values() if result.step == "train_folds"]
    assert [(item.experiment, item.users) for item in of_step] == [
        *(("personal", (user,)) for user in study.users),
        ("pooled", tuple(study.users)),
    ]
    assert audit_study(study.study) == Audit(checked=len(study.results))
    assert explained(study) == Explanation("report")
    assert inspect(study).complete


def test_every_sample_is_answered_once_by_weights_that_have_not_seen_it(study: SyntheticStudy) -> None:
    predictions = read_manifest("predictions/personal/users_1-2.json")
    assert [row["id"] for row in predictions["predictions"]] == [
        row["id"] for row in read_manifest("predictions/vanilla/users_1-2.json")["predictions"]
    ]
    for row in predictions["predictions"]:
        user, fold = row["model"].split("/")
        assert user == row["user"]
        record = read_manifest(f"checkpoints/personal/users_{user}.json")["folds"][fold]
        trained = (Path("checkpoints/personal") / record["weights_folder"] / "weights.safetensors").read_text()
        # The stand-in's weights are the samples that it was trained on.
        assert f'"{row["id"]}"' not in trained
        assert trained.count('"episode"') == record["train_samples"]


def test_swapped_adapters_are_those_of_another_user_for_the_same_fold(study: SyntheticStudy) -> None:
    owners = {"1": "ana", "2": "1", "10": "2", "ana": "10"}
    for batch in ("1-2", "10,ana"):
        own, swapped = (
            read_manifest(f"predictions/{name}/users_{batch}.json") for name in ("personal", "others_shift3")
        )
        for before, after in zip(own["predictions"], swapped["predictions"], strict=True):
            user, fold = before["model"].split("/")
            assert (after["id"], after["model"]) == (before["id"], f"{owners[user]}/{fold}")
        assert swapped["inputs"]["weights"].keys() == {f"personal {owners[user]}" for user in swapped["users"]}


def test_a_matrix_of_adapters_shows_each_user_by_the_adapters_of_each(study: SyntheticStudy) -> None:
    table = read_table(Path("tables/adapter_matrix.csv")).set_index("user")
    users = read_table(Path("tables/users.csv")).set_index(["experiment", "user"])["click_accuracy"]
    assert table["own"].tolist() == [users["personal", user] for user in study.users]
    for name in study.study.groups["others"]:
        for user, owner in study.study.adapter_owners(name).items():
            assert table.loc[user, f"adapter_{owner}"] == users[name, user]
    text = " ".join(re.sub("<[^>]+>", " ", Path("report.html").read_text()).split())
    assert "others is the mean over 3 other users&#39; adapters." in text
    assert "Own adapters and those of others personal, click accuracy, mean over 4 users:" in text
    assert "user samples of 1 of 2 of 10 of ana mean of others own " in text
    # A matrix is no group of settings.
    assert "Groups of experiments" not in text
    assert Path("tables/groups.md").read_text() == "No group has settings or seeds; see adapter_matrix.md.\n"


def test_a_user_who_is_added_to_a_matrix_asks_only_the_pairs_that_are_new(tmp_path: Path) -> None:
    def generated(users: list[str]) -> int:
        before = StandInEngine.generated
        settings = {**SETTINGS, "experiments": ["full_tuned", "personal", "others"], "users": users}
        SyntheticStudy(tmp_path, **settings).write()
        return StandInEngine.generated - before

    # By full_tuned, and by the adapters of each user; four samples each.
    assert generated(["1", "2"]) == 2 * 4 + 2 * 2 * 4
    assert generated(["1", "2", "10"]) == 4 + (3 * 3 - 2 * 2) * 4
    assert generated(["1", "2", "10"]) == 0


@pytest.mark.parametrize("experiment", ["personal", "pooled", "others_shift3"])
def test_planning_finds_the_stored_answers_of_each_adapter(study: SyntheticStudy, experiment: str) -> None:
    path = f"predictions/{experiment}/users_1-2.json"
    predictions = read_manifest(path)
    rows, model = predictions["predictions"], predictions["predictions"][0]["model"]
    Path(path).unlink()

    def planned() -> tuple[dict[str, tuple[int, int]], list[str]]:
        freshness = Freshness(study.study, study.recipes)
        counts = {
            user: count_stored(freshness, freshness.results[path], f"data/user_{user}.manifest.json") for user in "12"
        }
        return counts, [result.manifest for result in only_to_collect(freshness)]

    assert planned() == ({"1": (4, 0), "2": (4, 0)}, [path])
    folder = Path("store/predictions", predictions["store_folders"][model])
    for user in "12":
        shutil.rmtree(folder / f"user_{user}", ignore_errors=True)
    lost = {user: sum(row["user"] == user and row["model"] == model for row in rows) for user in "12"}
    assert sum(lost.values()) > 0
    assert planned() == ({user: (4 - count, count) for user, count in lost.items()}, [])


def test_weights_of_a_fold_that_are_damaged_or_missing_are_found(study: SyntheticStudy) -> None:
    folder = Path(PERSONAL).parent / read_manifest(PERSONAL)["folds"]["2"]["weights_folder"]
    (folder / "weights.safetensors").write_text("other")
    (finding,) = audit_study(study.study, with_report=False).findings
    assert (finding.kind, finding.path) == ("modified", (folder / "weights.safetensors").as_posix())
    (folder / "weights.safetensors").unlink()
    (finding,) = audit_study(study.study, with_report=False).findings
    assert finding.kind == "missing"


def test_an_edited_sample_repeats_trainings_that_contain_it_and_nothing_of_other_users(study: SyntheticStudy) -> None:
    others = {path: Path(path).read_bytes() for path in study.results if "personal/users_2" in path}
    edit(study, "1", 0)
    found = explained(study)
    assert found.jobs["train_folds"] == 2
    assert found.fold_trainings == [
        "training of personal on folds of user 1: 1 of 2 folds will be reused, 1 of 2 folds trains from the beginning",
        "training of pooled on folds of users 1-2,10,ana: "
        "1 of 2 folds will be reused, 1 of 2 folds trains from the beginning",
    ]
    assert "2 trainings on the folds of a user or of all (GPU)" in in_words(found)
    stale = {finding.path for finding in audit_study(study.study, with_report=False).findings}
    assert {PERSONAL, POOLED} <= stale
    assert not stale & others.keys()
    study.make_all("train_folds", "predict", "score")
    assert {path: Path(path).read_bytes() for path in others} == others
    assert not [finding for finding in audit_study(study.study).findings if finding.path.startswith("scores/")]


def test_other_settings_make_exactly_the_trainings_with_them_stale(study: SyntheticStudy) -> None:
    def stale(**changes: Any) -> set[str]:
        changed = replace(study, changes=changes)
        paths = {finding.path for finding in audit_study(changed.study, with_report=False).findings}
        return {path.partition("/")[2].partition("/")[0] for path in paths if path.startswith("checkpoints/")}

    folds = {"count": 2, "by": "random", "seed": 1}
    assert stale(folds=folds) == {"personal", "pooled"}
    experiments = json.loads(json.dumps(study.config["experiments"]))
    experiments["personal"]["samples"] = 1
    assert stale(experiments=experiments) == {"personal"}
    experiments = json.loads(json.dumps(study.config["experiments"]))
    experiments["personal"]["training"] = {"epochs": 3}
    assert stale(experiments=experiments) == {"personal", "pooled"}
    experiments["full_tuned"]["training"] = {"epochs": 2}
    # Their own recipes are the same, but their start is not.
    assert stale(experiments=experiments) == {"full_tuned", "personal", "pooled"}
    del experiments["full_tuned"]["training"], experiments["personal"]["training"]
    del experiments["personal"]["start_from"]
    assert stale(experiments=experiments) == {"personal"}


def test_the_report_shows_many_trainings_as_one(study: SyntheticStudy) -> None:
    report = Path("report.html").read_text(encoding="utf-8")
    assert "in 8 trainings" in report
    assert "in 2 trainings" in report
    assert "folds of 4 users" in report
    assert "Weights of another experiment" not in report
    lineage = read_manifest("tables/manifest.json")["experiments"]["personal"]["lineage"]
    assert lineage["train_folds"]["1"] == read_manifest(PERSONAL)["fingerprint"]


def test_the_weights_of_folds_are_not_exported(study: SyntheticStudy) -> None:
    with pytest.raises(UserError, match=r"--experiment personal: each user and fold has its own weights"):
        export_model(study.study, HubFolder("personal", Path("out")))


def test_status_counts_the_users_whose_weights_are_there(study: SyntheticStudy) -> None:
    Path(PERSONAL).unlink()
    rows = {
        row.users: row.state
        for row in inspect(study).rows
        if row.step == "train_folds" and row.experiment == "personal"
    }
    assert rows == {("1",): "waiting", ("2",): "done", ("10",): "done", ("ana",): "done"}
