"""A study with a sweep and a hypothesis: what the report and the figures say and show of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from usertune.core.formatting import p_text
from usertune.evaluation.recipe import ComparisonDesign
from usertune.evaluation.tables import read_table
from usertune.reporting.headline import headline
from usertune.reporting.recipe import FigureRecipe
from usertune.reporting.sections.groups import comparison_rows, group_sentences
from usertune.reporting.shown import members_of
from usertune.reporting.style import styles

Maker = Callable[..., Any]
SWEEP = {"learning_rate": [1e-4, 1e-3], "seed": [0, 1, 2]}
COLD, HOT = (tuple(f"runs_{rate}_seed{seed}" for seed in range(3)) for rate in ("lr1e_4", "lr1e_3"))
HYPOTHESIS = {
    "text": "Adapters help <b>every</b> user.",
    "comparisons": [["runs", "vanilla"], ["full", "vanilla"]],
}


def swept(make_study: Maker, **changes: Any) -> Any:
    experiments = {
        "vanilla": {"mode": "vanilla"},
        "runs": {"mode": "lora", "sweep": SWEEP, **changes.pop("runs", {})},
        "full": {"mode": "full"},
    }
    return make_study(changes={"experiments": experiments, "hypothesis": HYPOTHESIS, **changes})


def text_of(page: Path) -> str:
    text = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page.read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", text)))


def figure_recipe(study: Any) -> FigureRecipe:
    return FigureRecipe.model_validate(study.recipe("figures/accuracy_by_user.manifest.json"))


def test_the_report_begins_with_the_hypothesis_and_its_comparisons(make_study: Maker) -> None:
    study = swept(make_study, runs={"select": "accuracy"})
    page = study.report()
    assert "&lt;b&gt;every&lt;/b&gt;" in page.read_text()
    text = text_of(page)
    assert text.index("Adapters help <b>every</b> user.") < text.index("runs and vanilla cannot be told apart")
    assert "The comparisons that the hypothesis names." in text
    assert "Corrected: for these 2 comparisons, by Holm's method." in text
    table = read_table(study.root / "tables/hypothesis.csv")
    # The stand-in answers alike at every learning rate.
    said = (
        r"0\.0001 and learning_rate 0\.001 have the same highest mean click accuracy of 1 validation user \((\S+) %; "
    )
    value = re.search(said + "3 seeds; 12 samples\\); of equal settings the first in the study", text)
    assert value is not None
    assert text.count(f"{value[1]} (1 user, 12 samples)") == 2, "the two settings, in the table of groups"
    row = re.search(
        r"runs vanilla (\d+) (\S+) \[[^]]*\] (\S+) (\S+) (\S+) (\d) / (\d) (\S+) (\S+) exact sign flips of 4 users",
        text,
    )
    assert row is not None
    found = table.iloc[0]
    expected = (f"+{100 * found['difference']:.1f}", p_text(found["p"]), p_text(found["p_holm"]))
    assert (int(row[1]), (row[2], row[3], row[4])) == (4, expected)
    assert row[5] == f"+{100 * found['micro']:.1f}"
    assert [int(row[6]), int(row[7])] == [found["helped"], found["hurt"]]
    assert row[8].strip("+\N{MINUS SIGN}") == f"{100 * abs(found['worst_decile']):.1f}"
    assert row[9] == f"{100 * found['smallest_detectable']:.1f}"


def test_the_report_says_which_setting_was_chosen_and_what_varies(make_study: Maker) -> None:
    study = swept(make_study)
    text = text_of(study.report())
    groups = read_table(study.root / "tables/groups.csv")
    losses = [f"{loss:.4f}" for loss in groups["validation_loss"]]
    assert f"learning_rate 0.0001 has the lowest validation loss ({losses[0]}; the next has {losses[1]};" in text
    assert "runs is the mean over 3 seeds, with learning_rate 0.0001, chosen by validation." in text
    assert text.count("setting chosen by validation") == 3, "the seeds of the setting, in the summary"
    assert "Of the variance of the values of single users (learning_rate 0.0001)," in text
    shares = re.search(r"(\S+) % is between users, (\S+) % between seeds, and (\S+) % is the rest", text)
    assert shares is not None
    variances = groups[["sd_users", "sd_seeds", "sd_residual"]].iloc[0].astype(float) ** 2
    assert [float(share) for share in shares.groups()] == pytest.approx(100 * variances / variances.sum(), abs=0.06)


def test_figures_show_a_group_as_one_experiment_and_the_seeds_of_its_chosen_setting(make_study: Maker) -> None:
    from usertune.reporting.figures.sheet import Sources, subject_of

    study = swept(make_study)
    folder = study.compare()
    subject = subject_of(figure_recipe(study), Sources(folder, {}))
    assert subject.members == {"vanilla": ("vanilla",), "runs": COLD, "full": ("full",)}
    assert list(subject.styles) == subject.design.names == ["vanilla", "runs", "full"]
    samples, users = read_table(folder / "samples.csv"), subject.table("users.csv")
    by_user = samples[samples["experiment"].isin(COLD)].groupby("user")["hit_140"].mean()
    own = users[users["experiment"] == "runs"].set_index("user")["click_accuracy"]
    assert own.to_dict() == pytest.approx(by_user.to_dict())
    summary = subject.table("summary.csv").set_index("experiment")
    assert summary.loc["runs", "click_accuracy"] == pytest.approx(by_user.mean())
    groups = read_table(folder / "groups.csv")
    assert summary.loc["runs", "click_accuracy_low"] == groups["click_accuracy_low"].iloc[0] < by_user.mean()
    assert summary.loc["vanilla", "samples"] == 48
    assert (subject.table("samples.csv")["experiment"] == "runs").sum() == 3 * 48


@pytest.mark.filterwarnings("error:constrained_layout not applied")
def test_without_a_choice_figures_show_each_setting_and_no_group_makes_the_headline(make_study: Maker) -> None:
    study = swept(make_study, runs={"select": "none"}, hypothesis="Adapters help.")
    text = text_of(study.report())
    assert "No setting of runs takes part, because none is chosen by validation." in text
    assert "full and vanilla cannot be told apart" in text
    assert "runs: 2 settings. None is chosen" in text
    assert "The study names no comparisons for it." in text
    members = members_of(figure_recipe(study), study.root / "tables")
    assert members == {
        "vanilla": ("vanilla",),
        "runs, learning_rate 0.0001": COLD,
        "runs, learning_rate 0.001": HOT,
        "full": ("full",),
    }


def test_the_best_experiment_of_a_group_on_the_test_users_never_makes_the_headline(make_study: Maker) -> None:
    study = swept(make_study)
    folder = study.compare()
    summary, differences, groups = (read_table(folder / f"{name}.csv") for name in ("summary", "differences", "groups"))
    design = figure_recipe(study)
    # On the test users, one seed of the other setting is far better than everything else.
    summary.loc[summary["experiment"] == HOT[0], "click_accuracy"] = 0.99
    sentence = headline(design, design.metrics[0], summary, differences, groups)
    assert "runs" in sentence
    assert not any(name in sentence for name in (*COLD, *HOT))


def test_seeds_of_a_setting_share_a_style_and_settings_differ() -> None:
    runs = [("a0", 1), ("a1", 1), ("b0", 2)]
    experiments = [{"name": name, "mode": "lora", "group": "runs", "setting": {"r": value}} for name, value in runs]
    design = ComparisonDesign.model_validate(
        {
            "step": "report", "task": "grounding", "thresholds": [140.0], "users": ["1"],
            "experiments": [{"name": "vanilla", "mode": "vanilla"}, *experiments, {"name": "full", "mode": "full"}],
        }
    )  # fmt: skip
    found = styles(design, {"a1": "#123456"})
    assert found["a0"].marker == found["a1"].marker
    assert found["a1"].colour == "#123456"
    assert len({found[name] for name in ("vanilla", "a0", "b0", "full")}) == 4


def test_small_and_missing_p_values() -> None:
    assert [p_text(value) for value in (0.04567, 0.00001, 1.0, None, np.nan)] == [
        "0.0457", "< 0.0001", "1", "n/a", "n/a",
    ]  # fmt: skip


def test_one_seed_and_users_that_do_not_vary() -> None:
    row = {
        "group": "runs", "setting": "", "experiments": "a b", "seeds": 2.0, "users": 3.0, "samples": 9.0,
        "click_accuracy": 0.5, "selected": np.nan, "sd_users": 0.0, "sd_seeds": 0.0, "sd_residual": 0.0,
    }  # fmt: skip
    metric = figure_recipe_metric()
    (said,) = group_sentences(pd.DataFrame([row]), metric)
    assert said == "runs: one setting with 2 seeds. All users and seeds have the same value."
    (said,) = group_sentences(pd.DataFrame([{**row, "seeds": 1.0, "sd_users": np.nan}]), metric)
    assert said == "runs: one setting with 1 seed."
    empty = pd.DataFrame({"experiment": []})
    assert comparison_rows(empty, metric) == []


def figure_recipe_metric() -> Any:
    from usertune.evaluation.recipe import ScoreRecipe

    return ScoreRecipe(step="score", task="grounding", thresholds=(140,)).metrics[0]
