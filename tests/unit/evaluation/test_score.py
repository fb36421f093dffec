"""Scoring one experiment and user."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import score
from usertune.core.errors import UserError
from usertune.core.manifest import read_result, write_result
from usertune.data.samples import read_samples
from usertune.evaluation.answers import Answer
from usertune.evaluation.recipe import ScoreRecipe
from usertune.evaluation.score import score_samples, summarise

Maker = Callable[..., Any]
RECIPE = {"step": "score", "task": "grounding", "thresholds": [140, 70]}
METRICS = ScoreRecipe.model_validate(RECIPE).metrics
SAMPLE = {"id": "a", "user": "1", "episode": "e", "step": 1, "messages": [], "images": [], "target": {}}


def rows_of(answers: list[str], target: tuple[float, float] = (100, 100), ended: bool = True) -> list[dict[str, Any]]:
    samples = [
        {"id": str(index), "user": "1", "episode": "e", "step": index, "target": {"point": list(target)}}
        for index in range(len(answers))
    ]
    given = {str(index): Answer(text, ended) for index, text in enumerate(answers)}
    return score_samples("grounding", METRICS, samples, given, Path("user_1.jsonl"))


def test_an_unparsed_answer_near_the_corner_is_a_miss() -> None:
    row = rows_of(["I do not know"], target=(5, 5))[0]
    assert (row["parsed"], row["x"], row["distance"], row["hit_140"]) == (0, None, None, 0)


def test_the_threshold_itself_is_a_hit() -> None:
    rows = rows_of(["[240, 100]", "[240.001, 100]", "[0, 0]"], target=(100, 100))
    assert [row["hit_140"] for row in rows] == [1, 0, 0]
    assert rows_of(["[0, 100]"])[0]["x"] == 0  # a coordinate of 0 is not a missing one


def test_metrics_count_unparsed_answers_as_misses_without_distance() -> None:
    metrics = summarise(rows_of(["[100, 100]", "[100, 200]", "[100, 500]", "?"]), METRICS)
    assert metrics["samples"] == 4
    assert metrics["parse_rate"] == 0.75
    assert metrics["click_accuracy"] == 0.5
    assert metrics["click_accuracy_at"] == {"140": 0.5, "70": 0.25}
    assert metrics["mean_l2"] == pytest.approx(500 / 3)
    assert metrics["median_l2"] == 100


def test_every_row_and_the_metrics_say_how_answers_were_read() -> None:
    rows = rows_of(["[100, 100]", "```grounding\n[1, 2]\n```", "[100, 10", "scroll(1, 2)", "[3, 4]"])
    assert [row["form"] for row in rows] == ["line", "grounding_block", "cut_off", "not_a_click", "line"]
    assert [row["parsed"] for row in rows] == [1, 1, 0, 0, 1]
    forms = summarise(rows, METRICS)["forms"]
    assert forms == {"cut_off": 1, "grounding_block": 1, "line": 2, "not_a_click": 1}


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("512, 30", "cut_off"),
        ("x=512, y=30", "cut_off"),
        ("[512, 304]", "line"),
        ("512, 304\n", "line"),
        ("```grounding\n[512, 304]\n```\nIt is in row 3", "grounding_block"),
    ],
)
def test_a_number_at_the_end_of_an_answer_that_was_cut_off_may_lack_digits(text: str, form: str) -> None:
    assert rows_of([text], ended=False)[0]["form"] == form
    assert rows_of([text])[0]["parsed"] == 1


def test_nothing_parsed_has_no_distance() -> None:
    metrics = summarise(rows_of(["?"]), METRICS)
    assert metrics["mean_l2"] is None
    assert metrics["median_l2"] is None


def test_files_hold_rows_and_metrics(make_study: Maker) -> None:
    study = make_study()
    metrics_file = study.score("lora", "ana")
    metrics = read_result(metrics_file)
    rows = list(csv.DictReader(metrics_file.with_suffix(".csv").open(encoding="utf-8")))
    assert metrics["experiment"] == "lora"
    assert metrics["user"] == "ana"
    predictions = read_result(study.predictions("lora"))
    assert metrics["lineage"] == {
        "base_model": read_result(study.root / "base_model/manifest.json")["output"],
        "train": read_result(study.root / "checkpoints/lora/manifest.json")["fingerprint"],
        "prepare": read_result(study.root / "data/user_ana.manifest.json")["fingerprint"],
        "predict": predictions["fingerprint"],
        "score": metrics["fingerprint"],
    }
    assert metrics["provenance"] == predictions["provenance"]
    assert len(rows) == metrics["samples"] == study.samples
    assert list(rows[0]) == [
        *("id", "user", "episode", "step", "parsed", "form", "x", "y", "target_x", "target_y", "distance"),
        *("in_box", "hit_140", "hit_70.5"),
        *("instruction", "answer", "image", "width", "height", "box", "episode_length"),
    ]
    assert rows[0]["episode"] == "007"


def test_fingerprint_follows_content_and_not_upstream(make_study: Maker) -> None:
    study = make_study()

    def fingerprint(recipe: dict[str, Any]) -> str:
        inputs = study.samples_of("1"), study.predictions("lora")
        return str(score(recipe, "lora", "1", *inputs, *outputs(study))["fingerprint"])

    first = fingerprint(RECIPE)
    assert fingerprint({**RECIPE, "upstream": {"predict": "abc"}}) == first
    assert fingerprint({**RECIPE, "thresholds": [140]}) != first
    change_predictions(study, "lora", lambda items: items[-1].update(text="[1, 1]"))  # of another user
    assert fingerprint(RECIPE) == first
    change_predictions(study, "lora", lambda items: items[0].update(text="[1, 1]"))
    assert fingerprint(RECIPE) != first


def outputs(study: Any, name: str = "own") -> tuple[Path, Path, Path]:
    """Return paths for rows and metrics, and the path of the store."""
    return study.root / f"{name}.csv", study.root / f"{name}.json", study.root / "own_store"


@pytest.fixture
def scorings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of samples whenever samples are scored."""
    counts: list[int] = []

    def note(task: str, metrics: Any, samples: Any, *rest: Any) -> Any:
        counts.append(len(samples))
        return score_samples(task, metrics, samples, *rest)

    monkeypatch.setattr("usertune.evaluation.score.score_samples", note)
    return counts


def test_what_was_scored_before_comes_from_the_store(make_study: Maker, scorings: list[int]) -> None:
    study = make_study()
    inputs = "lora", "1", study.samples_of("1"), study.predictions("lora")
    first = score(RECIPE, *inputs, *outputs(study, "first"))
    assert scorings == [12]
    second = score({**RECIPE, "upstream": {"predict": "other"}}, *inputs, *outputs(study, "second"))
    assert scorings == [12]
    same = first.keys() - {"recipe", "files"}
    assert {key: first[key] for key in same} == {key: second[key] for key in same}
    assert (study.root / "first.csv").read_bytes() == (study.root / "second.csv").read_bytes()
    score({**RECIPE, "code": "other"}, *inputs, *outputs(study))
    assert scorings == [12, 12]


def test_another_score_in_its_place_in_the_store_does_not_count(
    make_study: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usertune.evaluation.score.utc_now", lambda: "2026-11-27T12:00:00+00:00")
    study = make_study()
    scores = {
        name: score(RECIPE, name, "1", study.samples_of("1"), study.predictions(name), *outputs(study, name))
        for name in ("lora", "vanilla")
    }
    ours, theirs = (study.root / "own_store" / f"{score['fingerprint'][:32]}.json" for score in scores.values())
    shutil.copy2(theirs, ours)
    again = score(RECIPE, "lora", "1", study.samples_of("1"), study.predictions("lora"), *outputs(study, "lora"))
    assert again == scores["lora"]


@pytest.mark.parametrize("damage", [b"", b"{}", b"modified"])
def test_a_damaged_score_in_the_store_is_computed_again(
    make_study: Maker,
    scorings: list[int],
    damage: bytes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The bytes are compared; they include the time of scoring.
    monkeypatch.setattr("usertune.evaluation.score.utc_now", lambda: "2026-11-27T12:00:00+00:00")
    study = make_study()
    inputs = "lora", "1", study.samples_of("1"), study.predictions("lora")
    first = score(RECIPE, *inputs, *outputs(study))
    (stored,) = (study.root / "own_store").iterdir()
    whole = stored.read_bytes()
    stored.write_bytes(whole.replace(b"1,", b"0,", 1) if damage == b"modified" else damage)
    with caplog.at_level(logging.WARNING):
        assert score(RECIPE, *inputs, *outputs(study)) == first
    assert scorings == [12, 12]
    assert str(stored) in caplog.text
    assert stored.read_bytes() == whole


def change_predictions(study: Any, name: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    path = study.predictions(name)
    content = read_result(path)
    change(content["predictions"])
    write_result(path, content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items: items.pop(3), r"users_1-2,10,ana.json: no prediction for sample '1/3'.*run snakemake"),
        (lambda items: items.append(dict(items[2])), "sample '1/2' was predicted twice"),
        (lambda items: items.append({**items[2], "id": "1/99"}), "predictions for sample '1/99', not in"),
        (lambda items: items[2].pop("text"), r"predictions\[2\] lacks"),
        (lambda items: items[2].update(text=None), "text is None, not a string"),
    ],
)
def test_predictions_must_match_the_samples(make_study: Maker, change: Any, message: str) -> None:
    study = make_study()
    change_predictions(study, "lora", change)
    with pytest.raises(UserError, match=message):
        study.score("lora", "1")
    assert not (study.root / "scores").exists()


def test_mismatched_predictions_are_refused(make_study: Maker) -> None:
    study = make_study()
    with pytest.raises(UserError, match="experiment 'vanilla', not 'lora'"):
        score(RECIPE, "lora", "1", study.samples_of("1"), study.predictions("vanilla"), *outputs(study))
    with pytest.raises(UserError, match="not '3'"):
        score(RECIPE, "lora", "3", rename_user(study, "3"), study.predictions("lora"), *outputs(study))


def test_predictions_edited_by_hand_are_refused(make_study: Maker) -> None:
    study = make_study()
    path = study.predictions("lora")
    path.write_text(path.read_text().replace("icon4", "icon5", 1))
    with pytest.raises(UserError, match=r"users_1-2,10,ana.json: the file was edited or cut short.*run snakemake"):
        study.score("lora", "1")


def rename_user(study: Any, user: str) -> Path:
    path = study.samples_of(user)
    path.write_text(study.samples_of("1").read_text().replace('"user": "1"', f'"user": "{user}"'))
    return Path(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "user 1 has no samples"),
        ("{oops\n", r"user_1.jsonl:1: not valid JSON"),
        ('{"id": "a", "user": "1"}\n', "user_1.jsonl:1: this sample has no episode, step, messages, images, target"),
        ("[1]\n", "user_1.jsonl:1: this sample has no id"),
        (json.dumps({**SAMPLE, "user": "2"}) + "\n", "is of user '2', not '1'"),
        (2 * (json.dumps(SAMPLE) + "\n"), ":2: the id 'a' occurs twice"),
    ],
)
def test_malformed_samples_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "user_1.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_samples(path, "1")


def test_a_sample_may_hold_unusual_line_separators(tmp_path: Path) -> None:
    path = tmp_path / "user_1.jsonl"
    sample = {**SAMPLE, "id": "a\u2028b"}
    path.write_text(json.dumps(sample, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_samples(path, "1")[0]["id"] == "a\u2028b"


@pytest.mark.parametrize("thresholds", [None, [], [0], [-1], [True], ["140"], [140, 140.0], [float("inf")]])
def test_bad_thresholds_are_refused(thresholds: Any) -> None:
    with pytest.raises(UserError, match="thresholds"):
        ScoreRecipe.parse(json.dumps({"step": "score", "task": "grounding", "thresholds": thresholds}))


def test_imports_nothing_that_takes_long() -> None:
    # pydantic, which checks the recipe, takes about 0.1 s; numpy and pandas take more, once in every job.
    heavy = {"numpy", "pandas", "PIL", "torch"}
    code = f"import sys, usertune.evaluation.score; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.strip() == "[]"
