"""How results stand when jobs are planned, and that damaged ones are made again, once."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.synthetic_study import SyntheticStudy
from usertune.checks.audit import audit_study
from usertune.checks.freshness import Freshness
from usertune.core.hashing import step_fingerprint
from usertune.core.manifest import read_result, write_result
from usertune.pipeline import steps
from usertune.pipeline.layout import Finding
from usertune.pipeline.recipes import Recipes, recipe_changes

HERE = Path()
LORA = "checkpoints/lora/manifest.json"
# One result of each step.
PLACES = [
    *("data/user_1.manifest.json", "base_model/manifest.json", LORA, "predictions/lora/users_1-2.json"),
    *(
        "scores/lora/user_1.json",
        steps.COMPARE.manifest,
        "figures/loss_curves.manifest.json",
        "audit",
        steps.REPORT.manifest,
    ),
]


def freshness(study: SyntheticStudy) -> Freshness:
    """Return how the results stand, as the next run of Snakemake sees it."""
    return Freshness(study.study, study.recipes)


def recipe(study: SyntheticStudy, place: str) -> dict[str, Any]:
    """Return the recipe that the rule gets in the next run."""
    found: dict[str, Any] = json.loads(freshness(study).recipe(place))
    return found


def damaged(found: Freshness) -> list[Finding]:
    """Return what is wrong with results that are there."""
    inspected = [found.inspect(place)[1] for place in found.results if (found.folder / place).exists()]
    return [finding for finding in inspected if finding]


def made_with_other_settings(found: Freshness) -> list[str]:
    """Return the whole results whose recipes are not those of the study."""
    whole = {place: manifest for place in found.results if (manifest := found.inspect(place)[0])}
    return [place for place in whole if recipe_changes(whole[place]["recipe"], found.results[place].recipe)]


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def test_whole_results_get_their_own_recipe(whole: SyntheticStudy) -> None:
    found = freshness(whole)
    for place, result in whole.results.items():
        assert json.loads(found.recipe(place)) == result.recipe
        assert list(found.reasons(place)) == []
    assert damaged(found) == []
    assert made_with_other_settings(found) == []


def test_missing_results_get_their_own_recipe(tmp_path: Path) -> None:
    study = SyntheticStudy(tmp_path)
    found = freshness(study)
    for place, result in study.results.items():
        assert json.loads(found.recipe(place)) == result.recipe
        assert list(found.reasons(place)) == ["it does not exist yet"]
    assert damaged(found) == []


@pytest.mark.parametrize("place", PLACES)
def test_a_damaged_result_is_made_again_once(whole: SyntheticStudy, place: str) -> None:
    place = str(whole.audit_file) if place == "audit" else place
    own = whole.recipe(place)
    seen = []
    for file in [place, *whole.results[place].files]:
        damage(Path(file))
        found = recipe(whole, place)
        assert found == {**own, "rebuild": found["rebuild"]}
        assert found == recipe(whole, place), "the plan of a dry run is that of the run"
        assert step_fingerprint(found, {}) == step_fingerprint(own, {})
        whole.make(place, found)
        assert damaged(freshness(whole)) == []
        # The record of the workflow and the next plan agree, so that nothing runs again.
        assert recipe(whole, place) == found
        seen.append(found["rebuild"])
    assert len(set(seen)) == len(seen), "another damage is another reason"
    assert made_with_other_settings(freshness(whole)) == []


def test_the_same_damage_a_second_time_is_another_one(whole: SyntheticStudy) -> None:
    place, seen = "scores/lora/user_1.json", set()
    for _ in range(3):
        damage(Path(place).with_suffix(".csv"))
        seen.add(recipe(whole, place)["rebuild"])
        whole.make(place, recipe(whole, place))
    assert len(seen) == 3


@pytest.mark.parametrize("how", ["truncated", "removed"])
def test_damaged_weights_are_made_again_once(whole: SyntheticStudy, how: str) -> None:
    weights = Path(LORA).parent / read_result(LORA)["weights_folder"] / "weights.safetensors"
    content = weights.read_bytes()
    if how == "truncated":
        os.truncate(weights, 3)
    else:
        weights.unlink()
    found = recipe(whole, LORA)
    assert "rebuild" in found
    (problem,) = damaged(freshness(whole))
    assert problem.path == weights.as_posix()
    whole.make(LORA, found)
    assert weights.read_bytes() == content
    assert recipe(whole, LORA) == found


def test_a_damage_that_was_undone_needs_no_new_job(whole: SyntheticStudy) -> None:
    for place, result in whole.results.items():
        before = recipe(whole, place)
        file = Path(result.files[0] if result.files else place)
        content = file.read_bytes()
        damage(file)
        assert recipe(whole, place) != before
        file.write_bytes(content)
        assert recipe(whole, place) == before


def test_damage_to_one_result_changes_no_other_recipe(whole: SyntheticStudy) -> None:
    place = "predictions/lora/users_1-2.json"
    damage(Path(place))
    changed = {other for other in whole.results if recipe(whole, other) != whole.recipe(other)}
    assert changed == {place}


def test_every_result_is_looked_at_once(whole: SyntheticStudy) -> None:
    found = freshness(whole)
    found.recipe(steps.REPORT.manifest)
    damage(Path(steps.REPORT.manifest))
    assert json.loads(found.recipe(steps.REPORT.manifest)) == whole.recipe(steps.REPORT.manifest)


def test_reasons_name_damage_settings_and_sources(whole: SyntheticStudy) -> None:
    damage(Path("scores/lora/user_1.csv"))
    Path("data/user_2.jsonl").unlink()
    os.utime("dataset/images/10_0.png", (1, 1))
    os.utime("base/config.json", (1, 1))
    changed = replace(whole, changes={"report": {"title": "Another"}})
    found = freshness(changed)
    assert list(found.reasons("scores/lora/user_1.json")) == [
        "scores/lora/user_1.csv: the file was edited or cut short after it was written"
    ]
    assert list(found.reasons("data/user_2.manifest.json")) == ["data/user_2.jsonl: the file is missing"]
    (of_images,) = found.reasons("data/user_10.manifest.json")
    assert "bytes, sizes or times" in of_images
    (of_base,) = found.reasons("base_model/manifest.json")
    assert "sizes or times" in of_base
    assert 'title: "A <b>bold</b> study" -> "Another"' in list(found.reasons(steps.REPORT.manifest))
    assert list(found.reasons("scores/lora/user_2.json")) == []
    assert {finding.path for finding in damaged(found)} == {"scores/lora/user_1.csv", "data/user_2.jsonl"}
    assert made_with_other_settings(found) == [steps.REPORT.manifest]


def test_results_of_other_code_or_settings_are_told_from_damaged_ones(whole: SyntheticStudy) -> None:
    recipes = Recipes(whole.study, {**whole.recipes.code, "score": "n" * 16}, whole.recipes.versions)
    found = Freshness(whole.study, recipes)
    assert damaged(found) == []
    (reason,) = found.reasons("scores/lora/user_1.json")
    assert reason == f'code: "{whole.recipes.code["score"]}" -> "{"n" * 16}"'
    scores = [place for place in whole.results if place.startswith("scores/")]
    assert [place for place in made_with_other_settings(found) if place in scores] == scores
    # What lies upstream is no reason of their own.
    assert list(found.reasons(steps.COMPARE.manifest)) == []


def test_what_the_audit_finds_is_what_is_repaired(whole: SyntheticStudy) -> None:
    found = freshness(whole)
    assert found.to_repair() == []
    # Rows of another experiment: whole, of today's recipe, and from something else.
    place = "predictions/lora/users_1-2.json"
    other = read_result(whole.root / "predictions/full_tuned/users_1-2.json")
    own = read_result(whole.root / place)
    fingerprint = step_fingerprint(own["recipe"], other["inputs"])
    changed = {"inputs": other["inputs"], "fingerprint": fingerprint, "predictions": other["predictions"]}
    write_result(whole.root / place, {**own, **changed})
    found = freshness(whole)
    stale = [item.path for item in audit_study(whole.study).findings]
    assert place in stale
    assert found.to_repair() == stale
    assert any("made from other versions" in reason for reason in found.not_from_upstream(place))


def test_what_is_missing_needs_no_repair_and_what_is_damaged_does(whole: SyntheticStudy) -> None:
    (whole.root / "scores/lora/user_1.json").unlink()
    (whole.root / steps.COMPARE.manifest).write_text("")
    # Of a version of usertune that wrote less.
    data = whole.root / "data/user_1.manifest.json"
    manifest = read_result(data)
    del manifest["sources_state"]
    write_result(data, manifest)
    assert freshness(whole).to_repair() == ["data/user_1.manifest.json", steps.COMPARE.manifest]
