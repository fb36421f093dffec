"""The comparison's numbers and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from usertune.core.errors import UserError
from usertune.core.formatting import count, duration, number, percent, signed
from usertune.core.hashing import digest_file
from usertune.core.manifest import read_result
from usertune.data.folds import FoldSettings, folds_of
from usertune.data.samples import read_samples
from usertune.evaluation.compare import compare
from usertune.evaluation.reading_note import reading_note
from usertune.evaluation.recipe import CompareRecipe, ComparisonDesign
from usertune.evaluation.summary_text import markdown
from usertune.evaluation.table_names import MANIFEST, TABLES
from usertune.evaluation.tables import read_table
from usertune.pipeline import steps
from usertune.reporting.style import styles

Maker = Callable[..., Any]


def recipe_of(study: Any, **keys: Any) -> CompareRecipe:
    return CompareRecipe.model_validate({"step": "compare", "confidence": 0.95, **study.design, **keys})


def test_tables_agree_with_the_rows(make_study: Maker) -> None:
    study = make_study()
    folder = study.compare()
    samples, summary = read_table(folder / "samples.csv"), read_table(folder / "summary.csv")
    users, differences = read_table(folder / "users.csv"), read_table(folder / "differences.csv")
    assert list(summary["experiment"]) == study.experiments
    assert list(users["user"]) == study.users * 3
    assert len(samples) == 3 * len(study.users) * study.samples
    assert set(samples["episode"]) == {"007"}
    assert set(samples["form"]) == {"grounding_block", "none"}
    assert "click_accuracy_at_70.5" in summary
    pairs = list(zip(differences["experiment"], differences["baseline"], strict=True))
    assert pairs == [("lora", "vanilla"), ("full_tuned", "vanilla"), ("full_tuned", "lora")]
    assert differences["corrected_for"].tolist()[:2] == [2, 2]
    assert math.isnan(differences["p_holm"][2])


def test_equal_inputs_give_equal_bytes_in_any_order(make_study: Maker) -> None:
    study = make_study()
    folder = study.compare()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    compare(CompareRecipe.model_validate(study.recipe(steps.COMPARE.manifest)), study.score_all()[::-1], folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert set(before) == {*TABLES, MANIFEST}


def test_every_table_names_its_lineage(make_study: Maker) -> None:
    study = make_study(experiments=["vanilla", "lora"])
    folder = study.compare()
    manifest = read_result(folder / MANIFEST)
    assert manifest["files"] == {name: digest_file(folder / name) for name in TABLES}
    for path in folder.glob("*.csv"):
        table = read_table(path)
        assert table.columns[-1] == "provenance"
        assert set(table["provenance"]) == {manifest["fingerprint"][:16]}
    trained = read_result(study.root / "checkpoints/lora/manifest.json")
    note = (folder / "summary.md").read_text().partition("<!--\n")[2]
    assert (folder / "summary.tex").read_text().startswith("% " + note.partition("\n")[0] + "\n% ")
    assert f"usertune comparison {manifest['fingerprint'][:16]} of study {manifest['study_sha256'][:16]}" in note
    assert (
        f"lora: base model {trained['lineage']['base_model'][:16]}, training {trained['fingerprint'][:16]}; 4 users"
        in note
    )
    assert f"lora: train with code {trained['provenance'][0]['code']} (" in note
    assert "vanilla: train" not in note
    users = manifest["experiments"]["lora"]["lineage"]["users"]
    assert users.keys() == set(study.users)
    for user, lineage in users.items():
        score = read_result(study.root / f"scores/lora/user_{user}.json")
        assert lineage == {step: score["lineage"][step] for step in ("prepare", "predict", "score")}


def test_people_read_rounded_numbers(make_study: Maker) -> None:
    folder = make_study().compare()
    shown, paper = (folder / "summary.md").read_text(), (folder / "summary.tex").read_text()
    table = [line for line in shown.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in table[4].split("|")][1:5] == ["`full_tuned`", "full", "4", "48"]
    assert len({len(line) for line in table}) == 1
    assert "95 % confidence intervals" in shown
    row = read_table(folder / "summary.csv").set_index("experiment").loc["full_tuned"]
    value, gain = 100 * row["click_accuracy"], 100 * row["difference_to_vanilla"]
    assert rf"full\_\allowbreak{{}}tuned & \bfseries {value:.1f} & [" in paper
    assert f" & +{gain:.1f} & " in paper
    assert r"\toprule" in paper
    users, compared = (folder / "users.md").read_text(), (folder / "differences.md").read_text()
    assert users.count("**") >= 2
    assert f"+{gain:.1f}" in compared
    assert "accuracy at 70.5 (%)" in shown
    assert r"accuracy \\ at 70.5 \\ (\%)" in (folder / "metrics.tex").read_text()


def test_one_user_has_no_interval_and_says_why(make_study: Maker) -> None:
    folder = make_study(users=["7"]).compare()
    summary = read_table(folder / "summary.csv")
    assert summary["click_accuracy_low"].isna().all()
    assert "n/a: needs 3 users" in (folder / "summary.md").read_text()


def test_without_a_vanilla_experiment_there_is_no_baseline(make_study: Maker) -> None:
    summary = read_table(make_study(experiments=["lora", "full_tuned"]).compare() / "summary.csv")
    assert summary["difference_to_vanilla"].isna().all()


def test_the_grid_must_be_complete(make_study: Maker) -> None:
    study = make_study()
    files, recipe = study.score_all(), recipe_of(study)
    with pytest.raises(UserError, match=r"1 of 12 scores are missing: experiment 'vanilla', user '1'"):
        compare(recipe, files[1:], study.root / "t")
    with pytest.raises(UserError, match="given twice"):
        compare(recipe, [*files, files[0]], study.root / "t")
    with pytest.raises(UserError, match="user 'ana' is not part of this study"):
        compare(recipe_of(study, users=study.users[:-1]), files, study.root / "t")
    with pytest.raises(UserError, match="not scored for grounding at the thresholds 100"):
        compare(recipe_of(study, thresholds=[100]), files, study.root / "t")


def test_damaged_rows_are_refused(make_study: Maker) -> None:
    study = make_study()
    files = study.score_all()
    rows = files[0].with_suffix(".csv")
    whole = rows.read_text()
    rows.write_text(whole + "\n")
    with pytest.raises(UserError, match=r"user_1.csv: missing, or not the rows"):
        compare(recipe_of(study), files, study.root / "t")
    rows.write_text(whole)
    files[0].write_text(files[0].read_text().replace('"parse_rate": 0', '"parse_rate": 1'))
    with pytest.raises(UserError, match=r"user_1.json: the file was edited"):
        compare(recipe_of(study), files, study.root / "t")
    assert not (study.root / "t").exists()


def test_every_experiment_needs_the_same_samples(make_study: Maker) -> None:
    study, other = make_study(), make_study("other", samples=11)
    files = study.score_all()
    files[-1] = other.score("full_tuned", "ana")
    with pytest.raises(UserError, match="not the samples that"):
        compare(recipe_of(study), files, study.root / "t")


def test_rows_name_the_folds_of_the_study_and_all_scores_need_the_same(make_study: Maker) -> None:
    study = make_study(changes={"folds": {"count": 4, "by": "random", "seed": 3}})
    study.compare()
    rows = pd.read_csv(study.root / "tables/samples.csv", dtype=str)
    assert list(rows.columns)[:6] == ["experiment", "id", "user", "episode", "step", "fold"]
    for (_, user), own in rows.groupby(["experiment", "user"]):
        folds = folds_of(read_samples(study.samples_of(user), user), FoldSettings(count=4, by="random", seed=3))
        assert dict(zip(own["id"], map(int, own["fold"]), strict=True)) == folds
        assert list(own["fold"].value_counts()) == [3, 3, 3, 3]
    path = "scores/lora/user_2.json"
    recipe = study.recipe(path)
    study.make(path, {**recipe, "folds": {**recipe["folds"], "seed": 4}})
    with pytest.raises(UserError, match=r"user_2.json: not scored with the folds of the other scores"):
        study.make_all("compare")


def test_a_user_with_too_few_samples_for_the_folds_has_no_score(make_study: Maker) -> None:
    study = make_study(changes={"folds": {"count": 3}})
    with pytest.raises(UserError, match=r"user 1 has 1 episode, which is too few for 3 folds .*folds.by: random"):
        study.score("vanilla", "1")


def test_text_columns_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_text("experiment,user,mean_l2\nlora,NA,\nlora,007,271.64838709677423\n")
    table = read_table(path)
    assert list(table["user"]) == ["NA", "007"]
    assert math.isnan(table["mean_l2"][0])
    assert repr(float(table["mean_l2"][1])) == "271.64838709677423"
    path.write_text("experiment,user,mean_l2\nlora,1,oops\n")
    with pytest.raises(UserError, match="not the expected table"):
        read_table(path)


DESIGN = {
    "step": "compare",
    "experiments": [{"name": "a", "mode": "lora"}],
    "users": ["1"],
    "task": "grounding",
    "thresholds": [140],
}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"experiments": []}, "experiments: "),
        ({"experiments": [1]}, "experiments.0: "),
        ({"experiments": DESIGN["experiments"] * 2}, r"experiments is \['a', 'a'\]; name each once"),
        ({"users": []}, "users: "),
        ({"users": ["1", "1"]}, r"users is \['1', '1'\]; name each once"),
        ({"confidence": 95}, "confidence: .*less than 1; found '95'"),
        ({"confidence": True}, "confidence: .*found 'True'"),
    ],
)
def test_a_recipe_without_a_design_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CompareRecipe.parse(json.dumps({**DESIGN, "confidence": 0.95, **keys}))


def test_formats() -> None:
    assert (percent(0.3421), percent(None), percent(math.nan)) == ("34.2", "n/a", "n/a")
    assert [signed(value, scale=100) for value in (0.0823, -0.0823, -0.0000001)] == ["+8.2", "\N{MINUS SIGN}8.2", "0.0"]
    assert [number(value, 0) for value in (1234.5, -0.2, 0)] == ["1,234", "0", "0"]
    assert [signed(value, 2) for value in (0.001, 0.01, math.nan)] == ["0.00", "+0.01", "n/a"]
    assert [duration(value) for value in (None, 4.21, 185, 8123.4)] == ["n/a", "4.2 s", "3 min 5 s", "2 h 15 min"]
    assert [count(value) for value in (None, 12, 21_823_488, 8_190_735_360)] == ["n/a", "12", "21.8 M", "8.19 B"]


def test_many_experiments_still_differ_in_style() -> None:
    design = ComparisonDesign.model_validate(
        {**DESIGN, "experiments": [{"name": f"e{index}", "mode": "lora"} for index in range(30)]}
    )
    assert len(set(styles(design).values())) == 30


def test_the_summary_holds_every_experiment(make_study: Maker) -> None:
    summary = read_table(make_study().compare() / "summary.csv")
    recipe = CompareRecipe.model_validate({**DESIGN, "thresholds": [140, 70.5], "confidence": 0.95})
    metrics, note = recipe.metrics, reading_note(recipe, summary)
    assert markdown(summary, metrics, note).count("\n| `") == 3


def test_metrics_are_plain_json(make_study: Maker) -> None:
    assert json.loads(make_study().score("vanilla", "1").read_text())["parse_rate"] < 1
