"""The freshness of results when jobs are planned; damaged ones are made again, once."""

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
from usertune.pipeline.recipe_changes import recipe_changes
from usertune.pipeline.recipes import Recipes

HERE = Path()
LORA = "checkpoints/lora/manifest.json"
# One result of each step.
PATHS = [
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
    """Return the freshness of the results, as the next run of Snakemake sees it."""
    return Freshness(study.study, study.recipes)


def recipe(study: SyntheticStudy, path: str) -> dict[str, Any]:
    """Return the recipe that the rule gets in the next run."""
    found: dict[str, Any] = json.loads(freshness(study).recipe(path))
    return found


def damaged(found: Freshness) -> list[Finding]:
    """Return what is wrong with results that are there."""
    inspected = [found.inspect(path)[1] for path in found.results if (found.folder / path).exists()]
    return [finding for finding in inspected if finding]


def made_with_other_settings(found: Freshness) -> list[str]:
    """Return the complete results with recipes other than those of the study."""
    complete = {path: manifest for path in found.results if (manifest := found.inspect(path)[0])}
    return [path for path in complete if recipe_changes(complete[path]["recipe"], found.results[path].recipe)]


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def test_complete_results_get_their_own_recipe(complete: SyntheticStudy) -> None:
    found = freshness(complete)
    for path, result in complete.results.items():
        assert json.loads(found.recipe(path)) == result.recipe
        assert list(found.reasons(path)) == []
    assert damaged(found) == []
    assert made_with_other_settings(found) == []


def test_missing_results_get_their_own_recipe(tmp_path: Path) -> None:
    study = SyntheticStudy(tmp_path)
    found = freshness(study)
    for path, result in study.results.items():
        assert json.loads(found.recipe(path)) == result.recipe
        assert list(found.reasons(path)) == ["it does not exist yet"]
    assert damaged(found) == []


@pytest.mark.parametrize("path", PATHS)
def test_a_damaged_result_is_made_again_once(complete: SyntheticStudy, path: str) -> None:
    path = str(complete.audit_file) if path == "audit" else path
    own = complete.recipe(path)
    seen = []
    for file in [path, *complete.results[path].files]:
        damage(Path(file))
        found = recipe(complete, path)
        assert found == {**own, "rebuild": found["rebuild"]}
        assert found == recipe(complete, path), "the plan of a dry run is that of the run"
        assert step_fingerprint(found, {}) == step_fingerprint(own, {})
        complete.make(path, found)
        assert damaged(freshness(complete)) == []
        # The record of the workflow and the next plan agree, so that nothing runs again.
        assert recipe(complete, path) == found
        seen.append(found["rebuild"])
    assert len(set(seen)) == len(seen), "another damage is another reason"
    assert made_with_other_settings(freshness(complete)) == []


def test_the_same_damage_a_second_time_is_another_one(complete: SyntheticStudy) -> None:
    path, seen = "scores/lora/user_1.json", set()
    for _ in range(3):
        damage(Path(path).with_suffix(".csv"))
        seen.add(recipe(complete, path)["rebuild"])
        complete.make(path, recipe(complete, path))
    assert len(seen) == 3


@pytest.mark.parametrize("how", ["truncated", "removed"])
def test_damaged_weights_are_made_again_once(complete: SyntheticStudy, how: str) -> None:
    weights = Path(LORA).parent / read_result(LORA)["weights_folder"] / "weights.safetensors"
    content = weights.read_bytes()
    if how == "truncated":
        os.truncate(weights, 3)
    else:
        weights.unlink()
    found = recipe(complete, LORA)
    assert "rebuild" in found
    (problem,) = damaged(freshness(complete))
    assert problem.path == weights.as_posix()
    complete.make(LORA, found)
    assert weights.read_bytes() == content
    assert recipe(complete, LORA) == found


def test_a_damage_that_was_undone_needs_no_new_job(complete: SyntheticStudy) -> None:
    for path, result in complete.results.items():
        before = recipe(complete, path)
        file = Path(result.files[0] if result.files else path)
        content = file.read_bytes()
        damage(file)
        assert recipe(complete, path) != before
        file.write_bytes(content)
        assert recipe(complete, path) == before


def test_damage_to_one_result_changes_no_other_recipe(complete: SyntheticStudy) -> None:
    path = "predictions/lora/users_1-2.json"
    damage(Path(path))
    changed = {other for other in complete.results if recipe(complete, other) != complete.recipe(other)}
    assert changed == {path}


def test_every_result_is_inspected_once(complete: SyntheticStudy) -> None:
    found = freshness(complete)
    found.recipe(steps.REPORT.manifest)
    damage(Path(steps.REPORT.manifest))
    assert json.loads(found.recipe(steps.REPORT.manifest)) == complete.recipe(steps.REPORT.manifest)


def test_reasons_name_damage_settings_and_sources(complete: SyntheticStudy) -> None:
    damage(Path("scores/lora/user_1.csv"))
    Path("data/user_2.jsonl").unlink()
    os.utime("dataset/images/10_0.png", (1, 1))
    os.utime("base/config.json", (1, 1))
    changed = replace(complete, changes={"report": {"title": "Another"}})
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


def test_results_of_other_code_or_settings_are_distinguished_from_damaged_ones(complete: SyntheticStudy) -> None:
    recipes = Recipes(complete.study, {**complete.recipes.code, "score": "n" * 16}, complete.recipes.versions)
    found = Freshness(complete.study, recipes)
    assert damaged(found) == []
    (reason,) = found.reasons("scores/lora/user_1.json")
    assert reason == f'code: "{complete.recipes.code["score"]}" -> "{"n" * 16}"'
    scores = [path for path in complete.results if path.startswith("scores/")]
    assert [path for path in made_with_other_settings(found) if path in scores] == scores
    # A stale input is not a reason for results made from it.
    assert list(found.reasons(steps.COMPARE.manifest)) == []


def test_what_the_audit_finds_is_what_is_repaired(complete: SyntheticStudy) -> None:
    found = freshness(complete)
    assert found.to_repair() == []
    # Rows of another experiment: complete, of the current recipe, but made from something else.
    path = "predictions/lora/users_1-2.json"
    other = read_result(complete.root / "predictions/full_tuned/users_1-2.json")
    own = read_result(complete.root / path)
    fingerprint = step_fingerprint(own["recipe"], other["inputs"])
    changed = {"inputs": other["inputs"], "fingerprint": fingerprint, "predictions": other["predictions"]}
    write_result(complete.root / path, {**own, **changed})
    found = freshness(complete)
    stale = [item.path for item in audit_study(complete.study).findings]
    assert path in stale
    assert found.to_repair() == stale
    assert any("made from other versions" in reason for reason in found.not_from_upstream(path))


def test_what_is_missing_needs_no_repair_and_what_is_damaged_does(complete: SyntheticStudy) -> None:
    (complete.root / "scores/lora/user_1.json").unlink()
    (complete.root / steps.COMPARE.manifest).write_text("")
    # Of a version of usertune that wrote less.
    data = complete.root / "data/user_1.manifest.json"
    manifest = read_result(data)
    del manifest["sources_state"]
    write_result(data, manifest)
    assert freshness(complete).to_repair() == ["data/user_1.manifest.json", steps.COMPARE.manifest]
