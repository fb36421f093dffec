"""Every number of the tables from samples.csv, in a few lines of pandas and scipy that share no code with ours."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

Maker = Callable[..., Any]
HIT = "hit_140"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.synthetic_study import SyntheticStudy

    users = [str(number) for number in range(1, 8)]
    fewer = {user: 3 + 2 * index for index, user in enumerate(users)}
    root = tmp_path_factory.mktemp("recomputed")
    return SyntheticStudy(root, users=users, samples=21, fewer=fewer, episodes=3, apps=True).write().compare()


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv", dtype={"user": str})


def t_interval(values: pd.Series) -> list[float]:
    ends = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return [values.mean(), *ends]


def test_users(tables: Path) -> None:
    users = read(tables, "users").set_index(["experiment", "user"])
    rows = read(tables, "samples").groupby(["experiment", "user"])
    for column, expected in {
        "samples": rows.size(),
        "parse_rate": rows["parsed"].mean(),
        "click_accuracy": rows[HIT].mean(),
        "click_accuracy_at_70.5": rows["hit_70.5"].mean(),
        "mean_l2": rows["distance"].mean(),
        "median_l2": rows["distance"].median(),
    }.items():
        pd.testing.assert_series_equal(users[column].sort_index(), expected, check_names=False, check_dtype=False)


def test_summary(tables: Path) -> None:
    samples, summary = read(tables, "samples"), read(tables, "summary").set_index("experiment")
    all_parsed = samples.groupby(["user", "id"])["parsed"].transform("min") == 1
    for name, own in samples.groupby("experiment"):
        row, users = summary.loc[name], own.groupby("user")
        means, counts = users[HIT].mean(), users.size()
        shares = counts / counts.sum()
        assert row[["click_accuracy", "click_accuracy_low", "click_accuracy_high"]].tolist() == pytest.approx(
            [max(0, min(1, value)) for value in t_interval(means)]
        )
        assert row["click_accuracy_sd"] == pytest.approx(means.std())
        assert row["click_accuracy_worst_decile"] == pytest.approx(means.min())
        assert row["click_accuracy_micro"] == pytest.approx(own[HIT].mean())
        assert [row["effective_users"], row["largest_share"]] == pytest.approx([1 / (shares**2).sum(), shares.max()])
        assert [row["parse_rate"], row["parse_rate_micro"]] == pytest.approx(
            [users["parsed"].mean().mean(), own["parsed"].mean()]
        )
        where = own[all_parsed[own.index]]
        assert row["where_all_parsed_samples"] == len(where)
        assert row["click_accuracy_where_all_parsed"] == pytest.approx(where.groupby("user")[HIT].mean().mean())
        assert [row["mean_l2"], row["mean_l2_micro"]] == pytest.approx(
            [users["distance"].mean().mean(), own["distance"].mean()]
        )
        assert [row["median_l2"], row["median_l2_micro"]] == pytest.approx(
            [users["distance"].median().mean(), own["distance"].median()]
        )
        # Bell & McCaffrey on the logit scale.
        n, mean = counts.to_numpy(), own[HIT].mean()
        a = 1 / np.sqrt(1 - n / n.sum())
        error = np.sqrt(np.sum((a * (users[HIT].sum() - n * mean)) ** 2)) / n.sum()
        b = np.diag(a**2 * n / n.sum() ** 2) - np.outer(a * n, a * n) / n.sum() ** 3
        half = stats.t.ppf(0.975, np.trace(b) ** 2 / np.sum(b**2)) * error / (mean * (1 - mean))
        ends = 1 / (1 + np.exp(-(np.log(mean / (1 - mean)) + np.array([-half, half]))))
        assert row[["click_accuracy_micro_low", "click_accuracy_micro_high"]].tolist() == pytest.approx(list(ends))


def test_differences(tables: Path) -> None:
    samples = read(tables, "samples")
    wide = samples.pivot(index=["user", "id"], columns="experiment", values=[HIT, "parsed"])
    owners = wide.index.get_level_values("user")
    for row in read(tables, "differences").to_dict("records"):
        name, baseline = row["experiment"], row["baseline"]
        gain = wide[HIT, name] - wide[HIT, baseline]
        means = gain.groupby(owners).mean()
        assert [row["difference"], row["low"], row["high"]] == pytest.approx(t_interval(means))
        assert row["p"] == pytest.approx(stats.permutation_test(
            (means,), np.mean, permutation_type="samples", n_resamples=np.inf
        ).pvalue)  # fmt: skip
        assert row["sd_users"] == pytest.approx(means.std())
        assert row["worst_decile"] == pytest.approx(means.min())
        assert row["micro"] == pytest.approx(gain.mean())
        tests = gain.groupby(owners).agg(lambda own: sign_test(own))
        assert [row["helped"], row["hurt"]] == [(tests > 0).sum(), (tests < 0).sum()]
        low, high = row["micro_low"], row["micro_high"]
        sums, counts = gain.groupby(owners).sum().to_numpy(), gain.groupby(owners).size().to_numpy()
        assert [sign_flip_p(sums, counts, end) > 0.05 for end in (low + 1e-6, high - 1e-6)] == [True, True]
        assert [sign_flip_p(sums, counts, end) > 0.05 for end in (low - 1e-6, high + 1e-6)] == [False, False]
        parsed = wide["parsed"]
        both = (parsed[name] == 1) & (parsed[baseline] == 1)
        rates = parsed.groupby(owners).mean()
        assert [row["parse_rate"], row["baseline_parse_rate"]] == pytest.approx(rates.mean()[[name, baseline]].tolist())
        if (rates[name] - rates[baseline]).std() > 0:
            assert [row["parse_difference"], row["parse_low"], row["parse_high"]] == pytest.approx(
                t_interval(rates[name] - rates[baseline])
            )
        where = wide[HIT][both].groupby(owners[both]).mean()
        assert row["both_parsed_samples"] == both.sum()
        assert [row["both_parsed"], row["baseline_both_parsed"]] == pytest.approx(
            where.mean()[[name, baseline]].tolist()
        )
        assert [row["both_parsed_difference"], row["both_parsed_low"], row["both_parsed_high"]] == pytest.approx(
            t_interval(where[name] - where[baseline])
        )
        assert row["of_format"] == pytest.approx(gain.where(~both, 0).groupby(owners).mean().mean())


def test_holm(tables: Path) -> None:
    stated = read(tables, "differences").query("baseline == 'vanilla'")
    small, large = sorted(stated["p"])
    assert sorted(stated["p_holm"]) == pytest.approx([min(1, 2 * small), max(min(1, 2 * small), large)])


def test_by_group(tables: Path) -> None:
    samples, table = read(tables, "samples"), read(tables, "by_group")
    samples["app"] = samples["about.app"]
    lengths = samples.groupby(["experiment", "user", "episode"])["id"].transform("size")
    assert (samples["episode_length"] == lengths).all()
    samples["episode length"] = [
        "1 sample" if length < 2 else "2 to 4 samples" if length < 5 else "5 to 9 samples" for length in lengths
    ]
    down = np.array(["top", "middle", "bottom"])[
        (samples["target_y"] > 1000 / 3) + 1 * (samples["target_y"] > 2000 / 3)
    ]
    across = np.array(["left", "centre", "right"])[
        (samples["target_x"] > 1000 / 3) + 1 * (samples["target_x"] > 2000 / 3)
    ]
    samples["screen region"] = [f"{one} {other}" for one, other in zip(down, across, strict=True)]
    assert set(table["by"]) == {"app", "episode length", "screen region"}, "all images have one size"
    assert len(table) == sum(samples[by].nunique() for by in set(table["by"])) * samples["experiment"].nunique()
    for row in table.to_dict("records"):
        own = samples[(samples[row["by"]] == row["value"])]
        wide = own.pivot(index=["user", "id"], columns="experiment", values=HIT)
        means = wide.groupby("user").mean()
        assert [row["users"], row["samples"]] == [len(means), len(wide)]
        assert [row["macro"], row["micro"]] == pytest.approx(
            [means[row["experiment"]].mean(), wide[row["experiment"]].mean()]
        )
        if row["experiment"] == "vanilla":
            assert np.isnan(row["difference_to_vanilla"])
            continue
        gains = means[row["experiment"]] - means["vanilla"]
        assert row["difference_to_vanilla"] == pytest.approx(gains.mean())
        if len(gains) < 5 or gains.std() == 0:
            assert np.isnan(row["difference_low"])
        else:
            ends = [row["difference_low"], row["difference_high"]]
            assert ends == pytest.approx(np.clip(t_interval(gains)[1:], -1, 1).tolist())


def test_samples_say_what_was_asked_shown_and_answered(tables: Path) -> None:
    samples = read(tables, "samples")
    assert samples["instruction"].str.startswith("Tap 'send'").all()
    read_or_not = samples["answer"].str.contains("```grounding\n[", regex=False)
    assert (read_or_not == (samples["parsed"] == 1)).all()
    assert (samples["image"] == "images/" + samples["id"].str.replace("/", "_") + ".png").all()
    assert set(zip(samples["width"], samples["height"], strict=True)) == {(90, 180)}
    assert set(samples["about.app"]) == {"mail", "maps, and more"}


def sign_test(own: pd.Series) -> int:
    up, down = int((own > 0).sum()), int((own < 0).sum())
    if up + down == 0 or stats.binomtest(up, up + down).pvalue >= 0.05:
        return 0
    return 1 if up > down else -1


def sign_flip_p(sums: np.ndarray, counts: np.ndarray, value: float) -> float:
    signs = np.array(list(product((1, -1), repeat=len(sums))))
    flipped = signs * (sums - counts * value)
    totals = flipped.sum(axis=1)
    spread = ((flipped - np.outer(totals, counts / counts.sum())) ** 2).sum(axis=1)
    return float(np.mean(totals**2 / spread >= totals[0] ** 2 / spread[0] * (1 - 1e-9)))
