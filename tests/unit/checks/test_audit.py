"""The audit of a complete study: it accepts the results of the steps, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.auditing import LORA, audit, found, paths_of, reasons, touch, with_changes
from tests.support.synthetic_study import SyntheticStudy
from usertune.checks.audit import Audit, in_words, run_audit
from usertune.checks.explain import explain
from usertune.checks.freshness import Freshness
from usertune.core.errors import UserError
from usertune.core.hashing import digest_file, step_fingerprint
from usertune.core.manifest import OLD_FORMAT, read_result, write_result
from usertune.pipeline import steps
from usertune.pipeline.plug_ins import current_code
from usertune.pipeline.recipes import AuditRecipe
from usertune.runtime.provenance import installed_versions
from usertune.study.schema.report import FIGURE_NAMES


def weights() -> Path:
    return Path(LORA).parent / str(read_result(LORA)["weights_folder"]) / "weights.safetensors"


def test_nothing_is_wrong_with_a_study_that_was_just_made(complete: SyntheticStudy) -> None:
    outcome = audit(complete)
    assert outcome == Audit(checked=len(complete.results))
    assert audit(complete, whole=False) == Audit(checked=len(complete.results) - 2)
    assert in_words(outcome) == f"the audit passed: {len(complete.results)} results match the study"


def test_the_outcome_is_written_instead_of_older_ones(complete: SyntheticStudy) -> None:
    (complete.audit_file.parent / "0123456789abcdef.json").write_text("{}")
    path = complete.audit_file.as_posix()
    run_audit(complete.study, AuditRecipe.model_validate(complete.recipe(path)), complete.audit_file)
    assert list(complete.audit_file.parent.iterdir()) == [complete.audit_file]
    written = read_result(complete.audit_file)
    assert (written["findings"], written["unreferenced"], written["environment_mismatches"]) == ([], [], [])
    assert (written["checked"], written["recipe"]) == (len(complete.results) - 2, complete.recipe(path))
    assert found(complete) == []


def test_an_audit_that_fails_says_what_to_do_and_writes_nothing(complete: SyntheticStudy) -> None:
    complete.audit_file.unlink()
    Path("scores/lora/user_1.csv").unlink()
    with pytest.raises(UserError) as caught:
        run_audit(
            complete.study,
            AuditRecipe.model_validate(complete.recipe(complete.audit_file.as_posix())),
            complete.audit_file,
        )
    first, last = str(caught.value).splitlines()
    assert first == "missing: scores/lora/user_1.csv: the file is missing"
    checked = len(complete.results) - 2
    assert last.startswith(
        f"the audit failed: 1 of {checked} results are not valid; run snakemake once to make them again"
    )
    assert not complete.audit_file.exists()


def test_a_long_list_of_findings_is_cut_short(complete: SyntheticStudy) -> None:
    shutil.rmtree("scores")
    text = in_words(audit(complete), shown=5)
    assert len(text.splitlines()) == 7
    assert "... and 7 more" in text


@pytest.mark.parametrize(
    "path",
    [
        "data/user_2.manifest.json",
        LORA,
        "predictions/lora/users_1-2.json",
        "scores/lora/user_1.json",
        steps.REPORT.manifest,
    ],
)
def test_a_missing_result_is_found_once_and_not_at_everything_made_from_it(complete: SyntheticStudy, path: str) -> None:
    Path(path).unlink()
    assert found(complete) == [("missing", path)]


@pytest.mark.parametrize(
    ("path", "old", "new"),
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
def test_a_modified_result_is_found(complete: SyntheticStudy, path: str, old: str, new: str) -> None:
    file = Path(path)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    assert found(complete) == [("modified", path)]


def test_truncated_results_are_found(complete: SyntheticStudy) -> None:
    paths = ["predictions/lora/users_1-2.json", "tables/samples.csv", "figures/accuracy_by_user.png"]
    for path in paths:
        os.truncate(path, Path(path).stat().st_size - 10)
    assert found(complete) == [("modified", path) for path in paths]


@pytest.mark.parametrize(
    ("source", "path"),
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
def test_a_result_of_another_experiment_or_user_is_found(complete: SyntheticStudy, source: str, path: str) -> None:
    shutil.copy2(source, path)
    assert found(complete) == [("mismatched", path)]


def test_predictions_that_were_modified_and_checksummed_again_do_not_fit_their_scores(complete: SyntheticStudy) -> None:
    path = "predictions/lora/users_1-2.json"
    result = read_result(path)
    result["predictions"][0]["text"] = "[1, 1]"
    write_result(path, result)
    assert found(complete) == [("stale", "scores/lora/user_1.json")]
    result["predictions"] = [{**row, "user": "10"} for row in result["predictions"]]
    write_result(path, result)
    assert found(complete)[0] == ("stale", path)
    assert "it contains rows of other users" in reasons(complete)[0]


def test_other_thresholds_make_scores_and_all_after_them_stale(complete: SyntheticStudy) -> None:
    changed = with_changes(complete, evaluation={"thresholds": [150], "users_per_job": 2})
    stale = paths_of(complete, "score", "compare", "figure", "report")
    assert set(found(changed)) == {("stale", path) for path in stale} | {("missing", str(changed.audit_file))}
    assert "made with other settings: thresholds: [140.0, 70.5] -> [150.0]" in reasons(changed)


def test_another_rank_makes_one_training_stale_and_names_the_setting(complete: SyntheticStudy) -> None:
    changed = with_changes(complete, training={"lora": {"rank": 16}})
    assert found(changed)[0] == ("stale", LORA)
    assert reasons(changed)[0] == "made with other settings: training.lora.rank: 8 -> 16"
    # No other result is stale, except those that show the study's digest.
    assert {path for _, path in found(changed)} - {LORA} == {
        *paths_of(complete, "compare", "report"),
        str(changed.audit_file),
    }


def test_another_training_log_makes_its_figure_stale(complete: SyntheticStudy) -> None:
    log = Path("checkpoints/lora/training_log.csv")
    log.write_text(log.read_text().replace("0.5", "0.4"))
    write_result(LORA, {**read_result(LORA), "files": {log.name: digest_file(log)}})
    assert found(complete) == [("stale", "figures/loss_curves.manifest.json")]


def test_weights_of_another_base_model_are_found(complete: SyntheticStudy) -> None:
    manifest = read_result(LORA)
    inputs = {**manifest["inputs"], "base_model": "0" * 64}
    write_result(LORA, {**manifest, "inputs": inputs, "fingerprint": step_fingerprint(manifest["recipe"], inputs)})
    assert found(complete) == [("stale", LORA)]
    assert reasons(complete) == ["made from other versions of base_model/manifest.json"]


@pytest.mark.parametrize("kind", ["modified", "missing", "unharmed"])
def test_weights_are_checked(complete: SyntheticStudy, kind: str) -> None:
    path = weights()
    if kind == "modified":
        os.truncate(path, path.stat().st_size // 2)
    elif kind == "missing":
        path.unlink()
    else:
        touch(path)
    assert found(complete) == ([] if kind == "unharmed" else [(kind, path.as_posix())])


def test_files_that_are_not_part_of_the_study_are_named_and_fail_nothing(complete: SyntheticStudy) -> None:
    smaller = replace(complete, experiments=["vanilla", "lora"])
    others = ["data/user_99.jsonl", "tables/old.csv", "figures/sub/old.svg", "predictions/mine.json"]
    for path in [*others, "scores/.hidden.json", str(weights().with_name("extra.bin")), "notes.txt"]:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text("x")
    outcome = audit(complete)
    assert outcome.findings == []
    assert sorted(outcome.unreferenced) == sorted(others)
    assert "note: 4 files are not part of this study (no table uses them): data/user_99.jsonl, " in in_words(outcome)
    for path in ("checkpoints/full_tuned/manifest.json", "scores/full_tuned/user_1.csv"):
        assert path in audit(smaller).unreferenced
    assert "figures/loss_curves.png" not in audit(smaller).unreferenced


def test_results_made_with_other_packages_are_kept_and_named(complete: SyntheticStudy) -> None:
    now = installed_versions()["torch"]
    for name in ("lora", "vanilla"):
        shutil.rmtree(f"predictions/{name}")
    shutil.rmtree("checkpoints/lora")
    shutil.rmtree("store/predictions")
    other = replace(complete, other_versions={"lora": {"torch": "1.0"}})
    other.make_all("train", "predict", "score", "compare", "figure", "audit", "report")
    outcome = audit(complete)
    assert outcome.findings == []
    change = [f"torch 1.0 -> {now}"]
    assert outcome.environment_mismatches == [
        {"what": "training of lora", "changes": change},
        {"what": "predictions of users 1-2 with lora and 1 more", "changes": change},
    ]
    assert f"note: training of lora: made with torch 1.0 -> {now}" in in_words(outcome)
    assert read_result(complete.audit_file)["environment_mismatches"] == outcome.environment_mismatches


def test_results_made_with_other_code_are_kept_and_named(
    complete: SyntheticStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {**current_code(complete.study), "prepare": "p" * 16, "predict": "q" * 16}
    monkeypatch.setattr("usertune.checks.audit.current_code", lambda _study: code)
    # The audit and the report name today's code, so that they are made again.
    outcome = audit(complete, whole=False)
    assert outcome.findings == []
    assert [item["what"] for item in outcome.environment_mismatches] == [
        "samples of user t1 and 6 more",
        *(f"predictions of users 1-2 with {name} and 1 more" for name in complete.experiments),
    ]
    assert outcome.environment_mismatches[0]["changes"] == [
        f"code {current_code(complete.study)['prepare']} -> {'p' * 16}"
    ]


@pytest.mark.parametrize(
    ("step", "stale"),
    [
        ("score", {"score": 12, "compare": 1, "figure": len(FIGURE_NAMES), "report": 1}),
        ("compare", {"compare": 1}),
        ("figure:loss_curves", {"figure": 1}),
        ("report", {"report": 1}),
    ],
)
def test_results_of_cheap_steps_made_with_other_code_are_stale(
    complete: SyntheticStudy, monkeypatch: pytest.MonkeyPatch, step: str, stale: dict[str, int]
) -> None:
    code = {**current_code(complete.study), step: "n" * 16}
    monkeypatch.setattr("usertune.checks.audit.current_code", lambda _study: code)
    findings = [finding for finding in audit(complete).findings if finding.kind == "stale"]
    steps = Counter(complete.results[finding.path].step for finding in findings)
    assert steps == {step: count for step, count in stale.items() if step in steps} != {}
    assert any(f'"{"n" * 16}"' in finding.reason for finding in findings)


def test_results_of_another_release_are_counted_once_and_made_again(complete: SyntheticStudy) -> None:
    for path in complete.results:
        manifest = read_result(path)
        old = {key: value for key, value in manifest.items() if key not in ("format", "inputs", "output")}
        write_result(path, old)
    outcome = audit(complete)
    assert {finding.kind for finding in outcome.findings} == {"outdated"}
    first, last = in_words(outcome).splitlines()
    assert first == f"outdated: {len(complete.results)} results, such as {next(iter(complete.results))}: {OLD_FORMAT}"
    assert last.endswith("run snakemake once to make them again")
    freshness = Freshness(complete.study, complete.recipes)
    assert freshness.to_repair() == list(complete.results)
    assert explain(freshness).causes.keys() == {OLD_FORMAT}


def test_an_input_that_changed_is_named(complete: SyntheticStudy) -> None:
    path = "scores/lora/user_1.json"
    manifest = read_result(path)
    inputs = {**manifest["inputs"], "samples": "0" * 64}
    fingerprint = step_fingerprint(manifest["recipe"], inputs)
    write_result(path, {**manifest, "inputs": inputs, "fingerprint": fingerprint, "output": fingerprint})
    (own, tables) = (finding for finding in audit(complete).findings if finding.kind == "stale")
    assert (own.path, own.reason) == (
        path, "made from other versions of data/user_1.manifest.json"
    )  # fmt: skip
    assert (tables.path, tables.reason) == (
        "tables/manifest.json", f"made from other versions of {path}"
    )  # fmt: skip
    write_result(path, {**manifest, "inputs": inputs})
    assert ("stale", path, "its fingerprint does not match its recipe and inputs") in [
        (finding.kind, finding.path, finding.reason) for finding in audit(complete).findings
    ]


def test_a_checksummed_result_that_lacks_what_it_should_hold_is_a_finding_and_no_crash(
    complete: SyntheticStudy,
) -> None:
    for path in complete.results:
        content = Path(path).read_bytes()
        manifest = read_result(path)
        touch("dataset/images/1_0.png", "base/config.json")
        kept = {"step", "format", "experiment", "user", "users", "files", "recipe"}
        for keys in (kept - {"recipe"}, kept, kept - {"files"}):
            write_result(path, {key: value for key, value in manifest.items() if key in keys})
            assert path in {path for _, path in found(complete)}
        Path(path).write_bytes(content)
    assert found(complete) == []
