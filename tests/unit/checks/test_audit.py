"""The audit of a whole study: it is content with what the steps made, and with nothing else."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.auditing import LORA, audit, found, places, reasons, touch, with_changes
from tests.support.synthetic_study import SyntheticStudy
from usertune.checks.audit import Audit, in_words, run_audit
from usertune.checks.explain import explain
from usertune.checks.freshness import Freshness
from usertune.core.errors import UserError
from usertune.core.hashing import digest_file, step_fingerprint
from usertune.core.manifest import OLD_FORMAT, read_result, write_result
from usertune.pipeline import steps
from usertune.pipeline.recipes import AuditRecipe, current_code
from usertune.runtime.provenance import installed_versions


def weights() -> Path:
    return Path(LORA).parent / str(read_result(LORA)["weights_folder"]) / "weights.safetensors"


def test_nothing_is_wrong_with_a_study_that_was_just_made(whole: SyntheticStudy) -> None:
    outcome = audit(whole)
    assert outcome == Audit(checked=len(whole.results))
    assert audit(whole, whole=False) == Audit(checked=len(whole.results) - 2)
    assert in_words(outcome) == "the audit passed: 34 results match the study"


def test_the_outcome_is_written_in_place_of_older_ones(whole: SyntheticStudy) -> None:
    (whole.audit_file.parent / "0123456789abcdef.json").write_text("{}")
    place = whole.audit_file.as_posix()
    run_audit(whole.study, AuditRecipe.model_validate(whole.recipe(place)), whole.audit_file)
    assert list(whole.audit_file.parent.iterdir()) == [whole.audit_file]
    written = read_result(whole.audit_file)
    assert (written["findings"], written["unreferenced"], written["environment_mismatches"]) == ([], [], [])
    assert (written["checked"], written["recipe"]) == (32, whole.recipe(place))
    assert found(whole) == []


def test_an_audit_that_fails_says_what_to_do_and_writes_nothing(whole: SyntheticStudy) -> None:
    whole.audit_file.unlink()
    Path("scores/lora/user_1.csv").unlink()
    with pytest.raises(UserError) as caught:
        run_audit(whole.study, AuditRecipe.model_validate(whole.recipe(whole.audit_file.as_posix())), whole.audit_file)
    first, last = str(caught.value).splitlines()
    assert first == "missing: scores/lora/user_1.csv: the file is missing"
    assert last.startswith("the audit failed: 1 of 32 results are not valid; run snakemake once to make them again")
    assert not whole.audit_file.exists()


def test_a_long_list_of_findings_is_cut_short(whole: SyntheticStudy) -> None:
    shutil.rmtree("scores")
    text = in_words(audit(whole), shown=5)
    assert len(text.splitlines()) == 7
    assert "... and 7 more" in text


@pytest.mark.parametrize(
    "place",
    [
        "data/user_2.manifest.json",
        LORA,
        "predictions/lora/users_1-2.json",
        "scores/lora/user_1.json",
        steps.REPORT.manifest,
    ],
)
def test_a_missing_result_is_found_once_and_not_at_everything_made_from_it(whole: SyntheticStudy, place: str) -> None:
    Path(place).unlink()
    assert found(whole) == [("missing", place)]


@pytest.mark.parametrize(
    ("place", "old", "new"),
    [
        ("predictions/lora/users_1-2.json", "icon4", "icon5"),
        ("scores/lora/user_1.csv", ",1", ",0"),
        ("scores/lora/user_1.json", '"click_accuracy": ', '"click_accuracy": 1'),
        ("tables/summary.csv", "lora", "lor"),
        ("tables/summary.tex", "lora", "lor"),
        ("figures/loss_curves.svg", "#0072b2", "#0072b3"),
        ("data/user_1.jsonl", "send", "sent"),
        ("checkpoints/lora/training_log.csv", "0.5", "0.4"),
        ("report.html", "lora", "lor"),
        ("provenance.json", "lora", "lor"),
        ("base_model/manifest.json", "base", "bass"),
    ],
)
def test_an_edited_result_is_found(whole: SyntheticStudy, place: str, old: str, new: str) -> None:
    path = Path(place)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert found(whole) == [("modified", place)]


def test_truncated_results_are_found(whole: SyntheticStudy) -> None:
    places = ["predictions/lora/users_1-2.json", "tables/samples.csv", "figures/accuracy_by_user.png"]
    for place in places:
        os.truncate(place, Path(place).stat().st_size - 10)
    assert found(whole) == [("modified", place) for place in places]


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("predictions/lora/users_1-2.json", "predictions/full_tuned/users_1-2.json"),
        ("predictions/lora/users_1-2.json", "predictions/lora/users_10,ana.json"),
        ("scores/lora/user_1.json", "scores/lora/user_2.json"),
        ("scores/lora/user_1.json", "scores/vanilla/user_1.json"),
        ("data/user_1.manifest.json", "data/user_2.manifest.json"),
        (LORA, "checkpoints/full_tuned/manifest.json"),
        ("figures/loss_curves.manifest.json", "figures/accuracy_by_user.manifest.json"),
    ],
)
def test_a_result_of_another_experiment_or_user_is_found(whole: SyntheticStudy, source: str, place: str) -> None:
    shutil.copy2(source, place)
    assert found(whole) == [("mismatched", place)]


def test_predictions_that_were_edited_and_sealed_again_do_not_fit_their_scores(whole: SyntheticStudy) -> None:
    place = "predictions/lora/users_1-2.json"
    result = read_result(place)
    result["predictions"][0]["text"] = "[1, 1]"
    write_result(place, result)
    assert found(whole) == [("stale", "scores/lora/user_1.json")]
    result["predictions"] = [{**row, "user": "10"} for row in result["predictions"]]
    write_result(place, result)
    assert found(whole)[0] == ("stale", place)
    assert "it contains rows of other users" in reasons(whole)[0]


def test_other_thresholds_make_scores_and_all_after_them_stale(whole: SyntheticStudy) -> None:
    changed = with_changes(whole, evaluation={"thresholds": [150], "users_per_job": 2})
    stale = places(whole, "score", "compare", "figure", "report")
    assert set(found(changed)) == {("stale", place) for place in stale} | {("missing", str(changed.audit_file))}
    assert "made with other settings: thresholds: [140.0, 70.5] -> [150.0]" in reasons(changed)


def test_another_rank_makes_one_training_stale_and_names_the_setting(whole: SyntheticStudy) -> None:
    changed = with_changes(whole, training={"lora": {"rank": 16}})
    assert found(changed)[0] == ("stale", LORA)
    assert reasons(changed)[0] == "made with other settings: training.lora.rank: 8 -> 16"
    # Nothing else says of itself that it was made otherwise, but for what shows the study's own digest.
    assert {place for _, place in found(changed)} - {LORA} == {
        *places(whole, "compare", "report"),
        str(changed.audit_file),
    }


def test_another_training_log_makes_its_figure_stale(whole: SyntheticStudy) -> None:
    log = Path("checkpoints/lora/training_log.csv")
    log.write_text(log.read_text().replace("0.5", "0.4"))
    write_result(LORA, {**read_result(LORA), "files": {log.name: digest_file(log)}})
    assert found(whole) == [("stale", "figures/loss_curves.manifest.json")]


def test_weights_of_another_base_model_are_found(whole: SyntheticStudy) -> None:
    manifest = read_result(LORA)
    inputs = {**manifest["inputs"], "base_model": "0" * 64}
    write_result(LORA, {**manifest, "inputs": inputs, "fingerprint": step_fingerprint(manifest["recipe"], inputs)})
    assert found(whole) == [("stale", LORA)]
    assert reasons(whole) == ["made from other versions of base_model/manifest.json"]


@pytest.mark.parametrize("kind", ["modified", "missing", "unharmed"])
def test_weights_are_looked_at(whole: SyntheticStudy, kind: str) -> None:
    path = weights()
    if kind == "modified":
        os.truncate(path, path.stat().st_size // 2)
    elif kind == "missing":
        path.unlink()
    else:
        touch(path)
    assert found(whole) == ([] if kind == "unharmed" else [(kind, path.as_posix())])


def test_files_that_are_not_part_of_the_study_are_named_and_fail_nothing(whole: SyntheticStudy) -> None:
    smaller = replace(whole, experiments=["vanilla", "lora"])
    others = ["data/user_99.jsonl", "tables/old.csv", "figures/sub/old.svg", "predictions/mine.json"]
    for place in [*others, "scores/.hidden.json", str(weights().with_name("extra.bin")), "notes.txt"]:
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).write_text("x")
    outcome = audit(whole)
    assert outcome.findings == []
    assert sorted(outcome.unreferenced) == sorted(others)
    assert "note: 4 files are not part of this study (no table uses them): data/user_99.jsonl, " in in_words(outcome)
    for place in ("checkpoints/full_tuned/manifest.json", "scores/full_tuned/user_1.csv"):
        assert place in audit(smaller).unreferenced
    assert "figures/loss_curves.png" not in audit(smaller).unreferenced


def test_results_made_with_other_packages_stand_and_are_named(whole: SyntheticStudy) -> None:
    now = installed_versions()["torch"]
    for name in ("lora", "vanilla"):
        shutil.rmtree(f"predictions/{name}")
    shutil.rmtree("checkpoints/lora")
    shutil.rmtree("store/predictions")
    other = replace(whole, other_versions={"lora": {"torch": "1.0"}})
    other.make_all("train", "predict", "score", "compare", "figure", "audit", "report")
    outcome = audit(whole)
    assert outcome.findings == []
    change = [f"torch 1.0 -> {now}"]
    assert outcome.environment_mismatches == [
        {"what": "training of lora", "changes": change},
        {"what": "predictions of users 1-2 with lora and 1 more", "changes": change},
    ]
    assert f"note: training of lora: made with torch 1.0 -> {now}" in in_words(outcome)
    assert read_result(whole.audit_file)["environment_mismatches"] == outcome.environment_mismatches


def test_results_made_with_other_code_stand_and_are_named(
    whole: SyntheticStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {**current_code(whole.study), "prepare": "p" * 16, "predict": "q" * 16}
    monkeypatch.setattr("usertune.checks.audit.current_code", lambda _study: code)
    # The audit and the report name today's code, so that they are made again.
    outcome = audit(whole, whole=False)
    assert outcome.findings == []
    assert [item["what"] for item in outcome.environment_mismatches] == [
        "samples of user t1 and 6 more",
        *(f"predictions of users 1-2 with {name} and 1 more" for name in whole.experiments),
    ]
    assert outcome.environment_mismatches[0]["changes"] == [
        f"code {current_code(whole.study)['prepare']} -> {'p' * 16}"
    ]


@pytest.mark.parametrize(
    ("step", "stale"),
    [
        ("score", {"score": 12, "compare": 1, "figure": 3, "report": 1}),
        ("compare", {"compare": 1}),
        ("figure:loss_curves", {"figure": 1}),
        ("report", {"report": 1}),
    ],
)
def test_results_of_cheap_steps_made_with_other_code_are_stale(
    whole: SyntheticStudy, monkeypatch: pytest.MonkeyPatch, step: str, stale: dict[str, int]
) -> None:
    code = {**current_code(whole.study), step: "n" * 16}
    monkeypatch.setattr("usertune.checks.audit.current_code", lambda _study: code)
    findings = [finding for finding in audit(whole).findings if finding.kind == "stale"]
    steps = Counter(whole.results[finding.path].step for finding in findings)
    assert steps == {step: count for step, count in stale.items() if step in steps} != {}
    assert any(f'"{"n" * 16}"' in finding.reason for finding in findings)


def test_results_of_another_release_are_counted_once_and_made_again(whole: SyntheticStudy) -> None:
    for place in whole.results:
        manifest = read_result(place)
        old = {key: value for key, value in manifest.items() if key not in ("format", "inputs", "output")}
        write_result(place, old)
    outcome = audit(whole)
    assert {finding.kind for finding in outcome.findings} == {"outdated"}
    first, last = in_words(outcome).splitlines()
    assert first == f"outdated: 34 results, such as {next(iter(whole.results))}: {OLD_FORMAT}"
    assert last.endswith("run snakemake once to make them again")
    freshness = Freshness(whole.study, whole.recipes)
    assert freshness.to_repair() == list(whole.results)
    assert explain(freshness).causes.keys() == {OLD_FORMAT}


def test_an_input_that_changed_is_named(whole: SyntheticStudy) -> None:
    place = "scores/lora/user_1.json"
    manifest = read_result(place)
    inputs = {**manifest["inputs"], "samples": "0" * 64}
    fingerprint = step_fingerprint(manifest["recipe"], inputs)
    write_result(place, {**manifest, "inputs": inputs, "fingerprint": fingerprint, "output": fingerprint})
    (own, tables) = (finding for finding in audit(whole).findings if finding.kind == "stale")
    assert (own.path, own.reason) == (
        place, "made from other versions of data/user_1.manifest.json"
    )  # fmt: skip
    assert (tables.path, tables.reason) == (
        "tables/manifest.json", f"made from other versions of {place}"
    )  # fmt: skip
    write_result(place, {**manifest, "inputs": inputs})
    assert ("stale", place, "its fingerprint does not match its recipe and inputs") in [
        (finding.kind, finding.path, finding.reason) for finding in audit(whole).findings
    ]


def test_a_sealed_result_that_lacks_what_it_should_hold_is_a_finding_and_no_crash(whole: SyntheticStudy) -> None:
    for place in whole.results:
        content = Path(place).read_bytes()
        manifest = read_result(place)
        touch("dataset/images/1_0.png", "base/config.json")
        kept = {"step", "format", "experiment", "user", "users", "files", "recipe"}
        for keys in (kept - {"recipe"}, kept, kept - {"files"}):
            write_result(place, {key: value for key, value in manifest.items() if key in keys})
            assert place in {place for _, place in found(whole)}
        Path(place).write_bytes(content)
    assert found(whole) == []
