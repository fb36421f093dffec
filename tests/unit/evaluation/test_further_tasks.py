"""Boxes, the choice of the primary metric, and further tasks, from the answers to the report."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest

from tests.support.synthetic_study import SyntheticStudy
from usertune.core.errors import UserError
from usertune.core.manifest import read_result
from usertune.data.samples import read_samples
from usertune.evaluation.answers import Answer
from usertune.evaluation.recipe import ScoreRecipe, measured
from usertune.evaluation.score import score_samples, summarise
from usertune.evaluation.tables import read_table
from usertune.study.load import study_from_config
from usertune.tasks.grounding import GroundingTask
from usertune.tasks.pigg_compatible import PiggCompatibleTask

Maker = Callable[..., Any]
FURTHER_ONLY = {"evaluation": {"further_tasks": ["pigg_compatible"]}}
BOX = [500.0, 290.0, 524.0, 318.0]
FURTHER = {"evaluation": {"thresholds": [140], "further_tasks": ["pigg_compatible"], "primary": "in_box"}}


def sample(identity: str, target: dict[str, Any], answer: str = "[512, 304]") -> dict[str, Any]:
    turns = [{"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    return {"id": identity, "user": "1", "episode": "e", "step": 0, "messages": turns, "target": target}


def rows_of(samples: list[dict[str, Any]], answers: list[str], *tasks: str) -> list[dict[str, Any]]:
    given = {sample["id"]: Answer(text) for sample, text in zip(samples, answers, strict=True)}
    return score_samples("grounding", measured(("grounding", *tasks), [140]), samples, given, Path("user_1.jsonl"))


@pytest.mark.parametrize(
    ("answer", "inside"),
    [
        ("[512, 304]", 1),
        ("[500, 290]", 1),
        ("[524, 318]", 1),
        ("[499.9, 304]", 0),
        ("[512, 318.1]", 0),
        # A box answer counts by its centre, also if it is larger than the element.
        ("[400, 200, 624, 408]", 1),
        ("[524, 290, 600, 318]", 0),
        ("nothing", 0),
    ],
)
def test_a_point_is_in_the_box_or_on_its_edge(answer: str, inside: int) -> None:
    (row,) = rows_of([sample("a", {"point": [512, 304], "box": BOX})], [answer])
    assert row["in_box"] == inside


def test_samples_without_a_box_do_not_count_for_boxes() -> None:
    samples = [sample("a", {"point": [512, 304], "box": BOX}), sample("b", {"point": [512, 304]})]
    rows = rows_of(samples, ["nothing", "nothing"])
    assert [row["in_box"] for row in rows] == [0, None]
    assert summarise(rows, measured(("grounding",), [140]))["in_box"] == 0


def test_the_circle_and_the_box_disagree() -> None:
    """The reason for the metric: a hit far outside a small box, and a miss inside a wide one."""
    wide = {"point": [500, 500], "box": [0, 480, 1000, 520]}
    samples = [sample("a", {"point": [512, 304], "box": BOX}), sample("b", wide)]
    rows = rows_of(samples, ["[600, 304]", "[900, 500]"])
    assert [(row["hit_140"], row["in_box"]) for row in rows] == [(1, 0), (0, 1)]


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, None], "1 2 3 4", [1, 2, 3, float("nan")]])
def test_a_malformed_box_is_refused(box: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        GroundingTask().read_target({"point": [1, 2], "box": box})


def test_a_further_task_reads_answers_and_targets_by_its_own_rules() -> None:
    answer = "```grounding\n[100, 100]\n```"
    samples = [sample("a", {"point": [100, 100]}, answer), sample("b", {"point": [100, 100]}, "[100, 100]")]
    rows = rows_of(samples, ["I cannot see it.", "I cannot see it."], "pigg_compatible")
    # (0, 0) is 141 from (100, 100). The other sample's answer has no block of the reference.
    assert rows[0]["pigg_distance"] == pytest.approx(141.42, abs=0.01)
    assert [row["pigg_hit"] for row in rows] == [0, None]
    assert [row["distance"] for row in rows] == [None, None]


@pytest.fixture
def boxed(make_study: Maker, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyntheticStudy]:
    """A study in which the targets with an even x have boxes of 80 x 80."""
    original = GroundingTask.target_from_answer

    def with_box(self: GroundingTask, text: str) -> dict[str, list[float]]:
        target = original(self, text)
        x, y = target["point"]
        return target if x % 2 else {**target, "box": [x - 40, y - 40, x + 40, y + 40]}

    monkeypatch.setattr(GroundingTask, "target_from_answer", with_box)
    return make_study(changes=FURTHER)


def test_tables_and_report_show_boxes_and_the_reference_as_columns_of_their_own(boxed: SyntheticStudy) -> None:
    page = boxed.report().read_text(encoding="utf-8")
    samples, summary = (read_table(boxed.root / f"tables/{name}.csv") for name in ("samples", "summary"))
    users = read_table(boxed.root / "tables/users.csv")
    for _, row in summary.iterrows():
        own = samples[samples["experiment"] == row["experiment"]]
        boxes = own["in_box"].dropna()
        assert 0 < len(boxes) < len(own)
        by_user = own.dropna(subset="in_box").groupby("user")["in_box"].mean()
        assert row["in_box"] == pytest.approx(by_user.mean())
        assert (row["in_box_micro"], row["in_box_samples"]) == (pytest.approx(boxes.mean()), len(boxes))
        assert row["in_box_low"] <= row["in_box"] <= row["in_box_high"]
        assert row["pigg_accuracy"] == own["pigg_hit"].mean()
        assert row["pigg_median_l2"] == own["pigg_distance"].median()
        by_user = own.groupby("user")["pigg_distance"]
        assert row["pigg_median_l2_by_user"] == pytest.approx(by_user.median().mean())
        of_users = users[users["experiment"] == row["experiment"]]
        assert row["pigg_mean_l2_by_user"] == pytest.approx(of_users["pigg_mean_l2"].mean())
    assert "In box: over " in page
    assert "samples with the box of the element." in page
    assert "PIGG accuracy, mean of users (%)" in page
    assert "those of the reference experiment" in page
    drawn = re.search(r'"box":(\[.*?\]\]|\[[^\]]*\])', page)
    assert drawn is not None
    assert re.search(r"\[[\d.]+,[\d.]+,[\d.]+,[\d.]+\]", drawn[1]), "the boxes of samples that have one"
    assert "in the box" in page
    assert "evaluation.further_tasks" in page.replace("<wbr>", "")


def test_differences_are_over_the_samples_with_a_box(boxed: SyntheticStudy) -> None:
    boxed.compare()
    differences = read_table(boxed.root / "tables/differences.csv")
    count = sum(
        "box" in sample["target"] for user in boxed.users for sample in read_samples(boxed.samples_of(user), user)
    )
    assert set(differences["samples"]) == {count}


def test_without_a_box_the_tables_have_no_such_column(make_study: Maker) -> None:
    folder = make_study().compare()
    assert "in_box" in (folder / "samples.csv").read_text().splitlines()[0]
    for name in ("summary.csv", "users.csv", "summary.md", "summary.tex"):
        text = (folder / name).read_text()
        assert "in_box" not in text
        assert "in box" not in text


def test_a_primary_metric_that_applies_to_no_sample_is_refused(make_study: Maker) -> None:
    study = make_study(changes={"evaluation": {"primary": "in_box"}})
    with pytest.raises(UserError, match=r"evaluation.primary: in_box is over samples with the box of the element"):
        study.compare()


def test_scores_of_other_tasks_are_refused(make_study: Maker) -> None:
    study = make_study()
    study.compare()
    with pytest.raises(UserError, match="not scored for grounding, pigg_compatible at the thresholds"):
        make_study(changes=FURTHER).make("tables/manifest.json")


def test_recipes_leave_the_defaults_out_and_scores_do_not_depend_on_the_primary_metric(make_study: Maker) -> None:
    plain, changed = make_study(), make_study("changed", changes=FURTHER)
    path = "scores/lora/user_1.json"
    assert not {"further_tasks", "primary"} & (plain.recipe(path).keys() | plain.recipe("tables/manifest.json").keys())
    assert changed.recipe(path)["further_tasks"] == ["pigg_compatible"]
    assert "primary" not in changed.recipe(path)
    assert changed.recipe("tables/manifest.json")["primary"] == "in_box"
    assert changed.recipe(path)["code"] != plain.recipe(path)["code"]


def test_the_score_has_the_reference_next_to_our_own(make_study: Maker) -> None:
    study = make_study(changes=FURTHER)
    path = study.score("vanilla", "1")
    score = read_result(path)
    with path.with_suffix(".csv").open() as lines:
        rows = list(csv.DictReader(lines))
    unread = [row for row in rows if row["parsed"] == "0"]
    assert unread
    assert all(row["distance"] == "" and float(row["pigg_distance"]) > 0 for row in unread)
    assert score["pigg_accuracy"] == sum(int(row["pigg_hit"]) for row in rows) / len(rows)


def test_with_folds_the_means_of_users_are_over_folds(make_study: Maker) -> None:
    study = make_study(changes={**FURTHER_ONLY, "folds": {"count": 5, "by": "random"}})
    study.compare()
    (summary,) = read_table(study.root / "tables/summary.csv").query("experiment == 'vanilla'").to_dict("records")
    users = read_table(study.root / "tables/users.csv").query("experiment == 'vanilla'").to_dict("records")
    of_users = []
    for row in users:
        with (study.root / f"scores/vanilla/user_{row['user']}.csv").open() as lines:
            folds: dict[str, list[float]] = {}
            for line in csv.DictReader(lines):
                folds.setdefault(line["fold"], []).append(float(line["pigg_distance"]))
        # 12 samples are in folds of 2 or 3.
        assert sorted(map(len, folds.values())) == [2, 2, 2, 3, 3]
        means, medians = [[of(fold) for fold in folds.values()] for of in (fmean, median)]
        assert row["pigg_mean_l2_by_user"] == pytest.approx(sum(means) / 5)
        assert row["pigg_median_l2_by_user"] == pytest.approx(sum(medians) / 5)
        of_users.append((sum(means) / 5, sum(medians) / 5))
        assert row["pigg_mean_l2_by_user"] != pytest.approx(row["pigg_mean_l2"])
    assert summary["pigg_mean_l2_by_user"] == pytest.approx(fmean(mean for mean, _ in of_users))
    assert summary["pigg_median_l2_by_user"] == pytest.approx(fmean(middle for _, middle in of_users))


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"primary": "in_bax"}, "evaluation.primary: 'in_bax' is no metric of this study; use one of: click_accuracy"),
        ({"primary": "mean_l2"}, "evaluation.primary: METRICS: mean_l2 comes first"),
        ({"further_tasks": ["grounding"]}, "evaluation.further_tasks: grounding is listed twice, or is dataset.task"),
        ({"further_tasks": ["pigg_compatible"] * 2}, "evaluation.further_tasks: pigg_compatible is listed twice"),
        ({"further_tasks": ["pig"]}, "evaluation.further_tasks"),
    ],
)
def test_a_mistake_in_the_study_is_told_by_key(evaluation: dict[str, Any], message: str) -> None:
    config = {
        "name": "small",
        "dataset": {"root": "data"},
        "users": {"test": 1},
        "base_model": {"path": "base"},
        "experiments": {"vanilla": {"mode": "vanilla"}},
        "evaluation": evaluation,
    }
    with pytest.raises(UserError) as caught:
        study_from_config(config)
    assert message in str(caught.value)


def test_a_task_can_be_further_or_the_own_one() -> None:
    recipe = ScoreRecipe(step="score", task="pigg_compatible", thresholds=(140,))
    assert recipe.metrics[0].name == "pigg_accuracy"
    assert PiggCompatibleTask().target_from_answer("```grounding\n[1, 2]\n```") == {"point": [1, 2]}
