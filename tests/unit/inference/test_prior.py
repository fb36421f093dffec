"""Priors: the points that answer without a model, against values worked out by hand, and what makes them stale."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.synthetic_study import SyntheticStudy
from usertune.checks.audit import audit_study
from usertune.checks.explain import explain, in_words
from usertune.checks.freshness import Freshness
from usertune.core.errors import UserError
from usertune.core.manifest import read_result
from usertune.data.folds import FoldSettings, folds_of
from usertune.data.samples import read_samples
from usertune.exchange.export_model import HubFolder, export_model
from usertune.inference.prior import densest
from usertune.pipeline.recipes import Recipes
from usertune.study.load import study_from_config
from usertune.tasks.catalogue import get_task

PRIORS = ["vanilla", "centre", "of_all", "own"]
FOLDS = {"folds": {"count": 3, "by": "episode", "seed": 0}}
COORDINATES = st.integers(0, 40).map(lambda value: value * 25)
POINTS = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticStudy:
    """A study with all kinds of priors, made up to the report."""
    study = SyntheticStudy(tmp_path_factory.mktemp("priors"), experiments=PRIORS, episodes=4, changes=FOLDS)
    study.write().report()
    return study


def answers(study: SyntheticStudy, name: str) -> dict[str, tuple[float, float]]:
    """Return sample id -> point, as the task reads the answers."""
    rows = read_result(study.predictions(name))["predictions"]
    found = {row["id"]: get_task("grounding").read(row["text"], row["stopped"])[0] for row in rows}
    assert None not in found.values()
    return found


def targets(study: SyntheticStudy, *users: str) -> list[tuple[float, float]]:
    samples = [sample for user in users for sample in read_samples(study.samples_of(user), user)]
    return [tuple(sample["target"]["point"]) for sample in samples]


def hits(points: list[tuple[float, float]], centre: tuple[float, float], radius: float) -> int:
    return sum(math.dist(point, centre) <= radius for point in points)


@given(POINTS, st.sampled_from([0, 25, 50, 140, 2000]))
def test_no_target_has_more_targets_around_it_than_the_densest(
    points: list[tuple[float, float]], radius: float
) -> None:
    found = densest(points, radius)
    counts = {point: hits(points, point, radius) for point in points}
    best = max(counts.values())
    assert found == min(point for point in points if counts[point] == best)
    assert densest(points[::-1], radius) == found


def test_a_target_at_the_radius_itself_counts() -> None:
    assert densest([(0, 0), (1000, 0), (1000, 140), (500, 500)], 140) == (1000, 0)
    assert densest([(0, 0), (1000, 0), (1000, 140.5), (500, 500), (500, 500)], 140) == (500, 500)


def test_the_centre_is_the_same_for_everyone(made: SyntheticStudy) -> None:
    assert set(answers(made, "centre").values()) == {(500, 500)}
    assert len(answers(made, "centre")) == 48


def test_the_prior_of_training_users_is_the_densest_of_all_their_targets(made: SyntheticStudy) -> None:
    expected = densest(targets(made, "t1", "t2"), 140)
    assert set(answers(made, "of_all").values()) == {expected}
    assert expected in targets(made, "t1", "t2")


def test_the_prior_of_a_user_is_the_mean_of_the_other_folds(made: SyntheticStudy) -> None:
    found = answers(made, "own")
    for user in made.users:
        samples = read_samples(made.samples_of(user), user)
        fold_of = folds_of(samples, FoldSettings(count=3, by="episode", seed=0))
        for sample in samples:
            others = [other["target"]["point"] for other in samples if fold_of[other["id"]] != fold_of[sample["id"]]]
            expected = [round(sum(axis) / len(others)) for axis in zip(*others, strict=True)]
            assert list(found[sample["id"]]) == expected


def test_tables_report_audit_and_metadata_have_experiments_without_a_model(made: SyntheticStudy) -> None:
    summary = (made.root / "tables/summary.md").read_text()
    assert "| `own`        | prior" in summary
    assert "own: no model; 4 users" in summary
    page = (made.root / "report.html").read_text()
    assert "none</td>" in page
    assert "prior.point" in page.replace("<wbr>", "")
    crate = json.loads((made.root / "provenance.json").read_text())["@graph"]
    (action,) = (item for item in crate if item["@id"] == "#action/predict/own")
    assert all(item["@id"].startswith("#prepare/") for item in action["object"])
    assert audit_study(made.study).findings == []
    assert not audit_study(made.study).environment_mismatches
    assert "up to date, nothing would run" in in_words(explain(Freshness(made.study, made.recipes)))


def test_a_prior_has_no_weights_to_export(made: SyntheticStudy, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--experiment own: "):
        export_model(made.study, HubFolder("own", tmp_path / "out", merge=False))


def edited(study: SyntheticStudy, user: str) -> set[str]:
    """Edit the target of a user's first sample, prepare the user, and return the experiments whose priors are stale."""
    path = study.dataset / f"user_{user}.jsonl"
    first, *rest = path.read_text().splitlines()
    sample = json.loads(first)
    sample["messages"][-1]["content"] = "```grounding\n[1, 2]\n```"
    path.write_text("\n".join([json.dumps(sample), *rest]) + "\n")
    study.make(f"data/user_{user}.manifest.json")
    freshness = Freshness(study.study, study.recipes)
    predictions = [result for result in study.results.values() if result.step == "predict"]
    return {str(result.experiment) for result in predictions if not freshness.holds(result.manifest)}


def test_an_edit_makes_those_priors_stale_that_use_the_user(make_study: Callable[..., SyntheticStudy]) -> None:
    study = make_study(experiments=PRIORS[1:], episodes=4, changes=FOLDS)
    assert edited(study, "v1") == set()
    assert edited(study, "t1") == {"of_all"}
    # The samples of a test user are those that are answered.
    assert edited(study, "1") == {"centre", "of_all", "own"}


def recipes(**changes: Any) -> dict[str, str]:
    experiments = {
        "centre": {"mode": "prior", "prior": {"of": "centre"}},
        "of_all": {"mode": "prior"},
        "own": {"mode": "prior", "prior": {"of": "same_user", "point": "mean"}},
    }
    config: dict[str, Any] = {
        "name": "small",
        "dataset": {"root": "data"},
        "users": {"train": "3-5", "validation": 6, "test": "1-2"},
        "base_model": {"path": "base"},
        "experiments": experiments,
        **FOLDS,
    }
    found = Recipes(study_from_config({**config, **changes}), changes.pop("code", {}))
    return {name: found.predict(name) for name in experiments}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"base_model": {"path": "other"}}, set()),
        ({"evaluation": {"max_new_tokens": 9, "thresholds": [140, 70]}}, set()),
        ({"folds": {"count": 4}}, {"own"}),
        ({"folds": {"count": 3, "by": "time"}}, {"own"}),
        ({"evaluation": {"thresholds": [70]}}, {"of_all"}),
        ({"users": {"train": "3-4", "validation": 6, "test": "1-2"}}, {"of_all"}),
        ({"dataset": {"root": "data", "frame": "pixels"}}, {"centre", "of_all", "own"}),
    ],
)
def test_a_setting_reaches_the_priors_that_depend_on_it(changes: dict[str, Any], expected: set[str]) -> None:
    before, after = recipes(), recipes(**changes)
    assert {name for name in before if before[name] != after[name]} == expected


def test_other_code_of_priors_makes_them_again_and_no_prediction_of_a_model(made: SyntheticStudy) -> None:
    other = Recipes(made.study, {**made.recipes.code, "prior": "other"}, made.recipes.versions)
    changed = {name for name in PRIORS if other.predict(name) != made.recipes.predict(name)}
    assert changed == {"centre", "of_all", "own"}


def test_a_user_without_a_click_outside_a_fold_is_named(tmp_path: Path) -> None:
    changes: dict[str, Any] = {**FOLDS, "dataset": {"root": str(tmp_path / "dataset"), "task": "action"}}
    study = SyntheticStudy(tmp_path, users=["1"], experiments=["own"], episodes=4, samples=4, changes=changes)
    study.write_raw("1")
    lines = [json.loads(line) for line in (study.dataset / "user_1.jsonl").read_text().splitlines()]
    for line in lines:
        line["messages"][-1]["content"] = '{"action": "wait"}'
    (study.dataset / "user_1.jsonl").write_text("\n".join(map(json.dumps, lines)))
    study.make("data/user_1.manifest.json")
    with pytest.raises(UserError, match=r"prior.of: same_user: no sample of user 1 outside fold 1 has a click"):
        study.make("predictions/own/users_1.json")
