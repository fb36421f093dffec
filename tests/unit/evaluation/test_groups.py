"""Groups of experiments: seeds summarised, the best setting chosen by validation, comparisons of the hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from usertune.core.errors import UserError
from usertune.core.manifest import read_manifest
from usertune.evaluation.choice import Validation
from usertune.evaluation.group_table import groups_table
from usertune.evaluation.groups import chosen_experiments, validation_loss, values_of_samples
from usertune.evaluation.paired import Answers, differences_table
from usertune.evaluation.recipe import CompareRecipe
from usertune.evaluation.statistics.variance import variance_split
from usertune.evaluation.tables import read_table

Maker = Callable[..., Any]
# The setting "hot" is better on test users, and "cold" on validation users.
ACCURACY = {"cold": 0.3, "hot": 0.9}
LOSSES = {"cold_0": 0.40, "cold_1": 0.42, "hot_0": 0.41, "hot_1": 0.43, "vanilla": None}
BY_LOSS = Validation(LOSSES, {})


def recipe(**changes: Any) -> CompareRecipe:
    runs = [(f"{setting}_{seed}", setting) for setting in ACCURACY for seed in (0, 1)]
    experiments = [{"name": name, "mode": "lora", "group": "runs", "setting": {"a.rate": text}} for name, text in runs]
    return CompareRecipe.model_validate(
        {
            "step": "compare", "task": "grounding", "thresholds": [140.0], "users": ["1", "2", "3"], "confidence": 0.9,
            "experiments": [{"name": "vanilla", "mode": "vanilla"}, *experiments], "select": {"runs": "loss"},
            **changes,
        }
    )  # fmt: skip


def rows(design: CompareRecipe) -> pd.DataFrame:
    """Samples of users with 4, 8 and 20 each."""
    chance = np.random.default_rng(5)
    frames = []
    for item in design.experiments:
        skill = ACCURACY.get(item.setting.get("a.rate", ""), 0.2)
        for user, count in zip(design.users, (4, 8, 20), strict=True):
            hits = (chance.random(count) < skill).astype(float)
            ids = [f"{user}/{index}" for index in range(count)]
            frames.append(pd.DataFrame({"experiment": item.name, "user": user, "id": ids, "hit_140": hits}))
    return pd.concat(frames, ignore_index=True)


def test_a_setting_is_summarised_over_its_seeds() -> None:
    design = recipe()
    samples = rows(design)
    table = groups_table(design, design.metrics[0], samples, BY_LOSS).set_index("setting")
    assert list(table.index) == ["rate cold", "rate hot"]
    for setting, names in design.groups["runs"].items():
        own = samples[samples["experiment"].isin(names)]
        row = table.loc[setting]
        totals = own.groupby("experiment")["hit_140"].mean()
        by_user = own.groupby(["user", "experiment"])["hit_140"].mean().unstack()
        split = variance_split(by_user)
        assert (row["experiments"], row["seeds"], row["users"], row["samples"]) == (" ".join(names), 2, 3, 32)
        assert row["click_accuracy_micro"] == pytest.approx(totals.mean())
        assert row["click_accuracy_micro_sd"] == pytest.approx(np.std(totals, ddof=1))
        assert row["click_accuracy"] == pytest.approx(by_user.to_numpy().mean())
        assert row["click_accuracy_sd"] == pytest.approx(np.std(by_user.mean(), ddof=1))
        assert split is not None
        variances = [row[f"sd_{name}"] ** 2 for name in ("users", "seeds", "residual")]
        assert variances == pytest.approx([split.users, split.seeds, split.residual])


def test_the_best_setting_is_that_with_the_lowest_validation_loss_whatever_the_test_users_say() -> None:
    design = recipe()
    samples = rows(design)
    table = groups_table(design, design.metrics[0], samples, BY_LOSS)
    assert table["selected"].tolist() == [1, 0]
    assert table["validation_loss"].tolist() == pytest.approx([0.41, 0.42])
    assert table["click_accuracy"].iloc[0] < table["click_accuracy"].iloc[1]
    chosen = chosen_experiments(design, table)
    assert chosen == {"runs": ("cold_0", "cold_1")}
    values = values_of_samples(design, "hit_140", samples, chosen)
    assert list(values) == [*design.names, "runs"]
    assert values["runs"].tolist() == ((values["cold_0"] + values["cold_1"]) / 2).tolist()
    other = groups_table(design, design.metrics[0], samples, Validation({**LOSSES, "hot_1": 0.38}, {}))
    assert other["selected"].tolist() == [0, 1]


def test_without_a_choice_nothing_stands_for_a_group_of_several_settings_but_for_one_of_one_setting() -> None:
    design = recipe(select={})
    table = groups_table(design, design.metrics[0], rows(design), Validation({}, {}))
    assert table["selected"].isna().all()
    assert chosen_experiments(design, table) == {}
    alone = recipe(select={}, experiments=[item.as_json() for item in design.experiments[:3]])
    table = groups_table(alone, alone.metrics[0], rows(alone), Validation({}, {}))
    assert chosen_experiments(alone, table) == {"runs": ("cold_0", "cold_1")}


def test_a_missing_validation_loss_is_an_error_that_names_the_training() -> None:
    design = recipe()
    with pytest.raises(UserError, match="the training of hot_1 has none"):
        groups_table(design, design.metrics[0], rows(design), Validation({**LOSSES, "hot_1": None}, {}))


def scores(**values: Any) -> Validation:
    """Scores of validation users 8 (5 samples) and 9 (20 samples) by experiment, as (accuracy, median distance)."""
    found = {}
    for name, pairs in values.items():
        of_users = zip("89", (5, 20), pairs, strict=True)
        found[name] = {
            user: {"samples": count, "click_accuracy": accuracy, "click_accuracy_at": {"140": accuracy}}
            for user, count, accuracy in of_users
        }
    return Validation({}, found)


ACCURATE = scores(cold_0=(1.0, 0.2), cold_1=(0.8, 0.0), hot_0=(0.4, 0.5), hot_1=(0.5, 0.5))


def by_accuracy(**changes: Any) -> CompareRecipe:
    return recipe(select={"runs": "accuracy"}, validation_users=["8", "9"], **changes)


def test_the_best_setting_by_accuracy_is_that_of_validation_users_with_equal_weight_for_each() -> None:
    design = by_accuracy()
    samples = rows(design)
    table = groups_table(design, design.metrics[0], samples, ACCURATE)
    # Over all 25 samples, hot would be the better one (0.49 and 0.25), and it is on the test users.
    assert table["validation_click_accuracy"].tolist() == pytest.approx([0.5, 0.475])
    assert table["validation_click_accuracy_sd"].tolist() == pytest.approx([np.std([0.6, 0.4], ddof=1), 0.025 * 2**0.5])
    assert table["click_accuracy"].iloc[0] < table["click_accuracy"].iloc[1]
    assert table["selected"].tolist() == [1, 0]
    assert (
        table[["selected_by", "validation_users", "validation_samples"]].to_numpy().tolist()
        == [["accuracy", 2, 25]] * 2
    )
    # What is measured on test users is the same, whatever chooses.
    same = [name for name in table if not name.startswith(("validation", "select"))]
    other = groups_table(recipe(), design.metrics[0], samples, BY_LOSS)
    pd.testing.assert_frame_equal(table[same], other[same])


def test_of_equal_settings_the_first_is_chosen_and_lower_is_better_where_the_metric_says_so() -> None:
    design = by_accuracy()
    primary = design.metrics[0]
    # Equal up to rounding: (0.1 + 0.7) / 2 and (0.2 + 0.6) / 2.
    equal = scores(cold_0=(0.1, 0.7), cold_1=(0.1, 0.7), hot_0=(0.6, 0.2), hot_1=(0.2, 0.6))
    assert groups_table(design, primary, rows(design), equal)["selected"].tolist() == [1, 0]
    better = scores(cold_0=(0.1, 0.7), cold_1=(0.1, 0.7), hot_0=(0.6, 0.2), hot_1=(0.21, 0.6))
    assert groups_table(design, primary, rows(design), better)["selected"].tolist() == [0, 1]
    lower = replace(primary, better="lower")
    assert groups_table(design, lower, rows(design), better)["selected"].tolist() == [1, 0]


def test_users_without_a_value_in_some_setting_choose_nothing() -> None:
    design = by_accuracy()
    holes = scores(cold_0=(0.9, 0.2), cold_1=(0.9, 0.2), hot_0=(None, 0.5), hot_1=(0.1, 0.5))
    table = groups_table(design, design.metrics[0], rows(design), holes)
    assert table["validation_click_accuracy"].tolist() == pytest.approx([0.2, 0.5])
    assert table[["validation_users", "validation_samples"]].to_numpy().tolist() == [[1, 20]] * 2
    none = scores(cold_0=(0.9, None), cold_1=(0.9, 0.2), hot_0=(None, 0.5), hot_1=(0.1, 0.5))
    with pytest.raises(UserError, match="no validation user has a value in all its experiments"):
        groups_table(design, design.metrics[0], rows(design), none)


def test_the_validation_loss_is_that_of_the_weights_that_are_used() -> None:
    training = {"steps": 30, "final_validation_loss": 0.5}
    assert validation_loss(training) == 0.5
    assert validation_loss({**training, "kept_step": 30, "kept_validation_loss": 0.5}) == 0.5
    assert validation_loss({**training, "kept_step": 20, "kept_validation_loss": 0.4}) == 0.4


def test_the_comparisons_of_a_hypothesis() -> None:
    design = recipe()
    samples = rows(design)
    values = values_of_samples(design, "hit_140", samples, {"runs": ("hot_0", "hot_1")})
    users = samples.loc[samples["experiment"] == "vanilla", "user"].reset_index(drop=True)
    pairs = [("runs", "vanilla"), ("cold_0", "vanilla")]
    answers = Answers(users, values, {name: value * 0 + 1 for name, value in values.items()})
    table = differences_table(design.metrics[0], 0.9, answers, pairs, only_stated=True)
    assert list(zip(table["experiment"], table["baseline"], strict=True)) == pairs
    gains = (values["runs"] - values["vanilla"]).groupby(users).mean()
    # Student's t with two degrees of freedom at 90 %: 2.919986.
    half = 2.919986 * gains.std(ddof=1) / np.sqrt(3)
    row = table.iloc[0]
    assert row["difference"] == pytest.approx(gains.mean())
    assert (row["low"], row["high"]) == pytest.approx((max(gains.mean() - half, -1), min(gains.mean() + half, 1)))
    # All three users gain: two of eight patterns are as far from zero.
    assert (gains > 0).all()
    assert row["p"] == 0.25
    assert "all 8 patterns; with so few users no p value is below 0.25" in row["test"]
    assert table["p_holm"].tolist() == pytest.approx([min(1, 2 * row["p"]), max(min(1, 2 * row["p"]), table["p"][1])])


@pytest.mark.parametrize(("users", "said"), [(1, "one user allows none"), (2, "2 users allow none")])
def test_two_users_or_fewer_have_no_p_and_the_table_says_why(users: int, said: str) -> None:
    owners = pd.Series([str(user) for user in range(users) for _ in range(4)])
    values = {"a": pd.Series([1.0, 1, 0, 1] * users), "b": pd.Series([0.0, 1, 0, 0] * users)}
    answers = Answers(owners, values, {name: value * 0 + 1 for name, value in values.items()})
    table = differences_table(recipe().metrics[0], 0.95, answers, [("a", "b")])
    assert table[["p", "p_holm"]].isna().all(axis=None)
    assert said in table["test"].iloc[0]


def swept(make_study: Maker) -> Any:
    sweep = {"learning_rate": [1e-4, 1e-3], "seed": [0, 1, 2]}
    experiments = {"vanilla": {"mode": "vanilla"}, "runs": {"mode": "lora", "sweep": sweep}}
    comparisons = [["runs", "vanilla"], ["runs", "runs_lr1e_4_seed1"]]
    hypothesis = {"text": "Adapters help <b>every</b> user.", "comparisons": comparisons}
    return make_study(changes={"experiments": experiments, "hypothesis": hypothesis})


def test_a_study_with_a_sweep_from_its_trainings_to_its_tables(make_study: Maker) -> None:
    study = swept(make_study)
    folder = study.compare()
    groups, hypothesis = read_table(folder / "groups.csv"), read_table(folder / "hypothesis.csv")
    losses = [
        validation_loss(read_manifest(study.root / f"checkpoints/runs_{rate}_seed{seed}/manifest.json"))
        for rate in ("lr1e_4", "lr1e_3")
        for seed in (0, 1, 2)
    ]
    assert groups["validation_loss"].tolist() == pytest.approx([np.mean(losses[:3]), np.mean(losses[3:])])  # type: ignore[arg-type]
    assert groups["selected"].tolist() == [1, 0]
    assert groups["setting"].tolist() == ["learning_rate 0.0001", "learning_rate 0.001"]
    samples = read_table(folder / "samples.csv")
    chosen = samples[samples["experiment"].isin(groups["experiments"].iloc[0].split(" "))]
    assert groups["click_accuracy_micro"].iloc[0] == pytest.approx(chosen["hit_140"].mean())
    assert groups["click_accuracy_sd"].iloc[0] > 0
    by_user = chosen.groupby("user")["hit_140"].mean()
    baseline = samples[samples["experiment"] == "vanilla"].groupby("user")["hit_140"].mean()
    assert hypothesis["difference"].iloc[0] == pytest.approx((by_user - baseline).mean())
    differences = read_table(folder / "differences.csv")
    assert (differences["experiment"] == "runs").sum() == 7
    text = (folder / "groups.md").read_text()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "`runs`" in line]
    assert [(row[1], row[2], row[-1]) for row in cells] == [
        ("learning_rate 0.0001", "3", "chosen"),
        ("learning_rate 0.001", "3", "no"),
    ]
    manifest = read_manifest(folder / "manifest.json")
    assert set(manifest["inputs"]["trainings"]) == set(study.study.chosen_by_loss)
    assert {"groups.csv", "groups.md", "hypothesis.csv"} <= set(manifest["files"])


def test_a_study_whose_setting_is_chosen_by_accuracy_from_its_answers_to_its_tables(make_study: Maker) -> None:
    sweep = {"mode": "lora", "select": "accuracy", "sweep": {"learning_rate": [1e-4, 1e-3], "seed": [0, 1]}}
    other = {"mode": "full", "sweep": {"seed": [0, 1]}}
    study = make_study(
        changes={"experiments": {"vanilla": {"mode": "vanilla"}, "runs": sweep, "full": other}}, users=["1", "2"]
    )
    names = study.study.groups["runs"]
    answered = [path for path in study.results if path.startswith("scores/") and "user_v1" in path]
    assert answered == [f"scores/{name}/user_v1.json" for name in names]
    folder = study.compare()
    groups = read_table(folder / "groups.csv").set_index("setting")
    own = [read_manifest(study.root / path)["click_accuracy"] for path in answered]
    expected = [np.mean(own[:2]), np.mean(own[2:])]
    assert groups["validation_click_accuracy"].dropna().tolist() == pytest.approx(expected)
    manifest = read_manifest(folder / "manifest.json")
    assert set(manifest["inputs"]["validation"]) == {f"{name} v1" for name in names}
    for name in ("samples", "users"):
        assert set(read_table(folder / f"{name}.csv")["user"]) == {"1", "2"}
    assert set(read_table(folder / "summary.csv")["samples"]) == {24}
    assert f"{100 * expected[0]:.1f} (1 user, 12 samples)" in (folder / "groups.md").read_text()
    # A score of a test user in place of that of a validation user is refused.
    (study.root / answered[0]).write_bytes((study.root / f"scores/{names[0]}/user_1.json").read_bytes())
    with pytest.raises(UserError, match="user '1' is not part of this study"):
        study.make("tables/manifest.json")
