"""Two studies compared on the samples that both have."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from tests.support.synthetic_study import SyntheticStudy
from usertune.cli.main import main
from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.exchange.compare_studies import Results, comparison, differences, overlap_of, pairs_of
from usertune.study.copy import study_text


@dataclass
class Changed(SyntheticStudy):
    """A study in which one question and one expected answer of user 2 are others."""

    def write_raw(self, user: str) -> None:
        super().write_raw(user)
        if user == "2":
            path = self.dataset / "user_2.jsonl"
            samples = [json.loads(line) for line in path.read_text().splitlines()]
            samples[0]["messages"][0]["content"][1]["text"] = "Tap 'back'"
            samples[1]["messages"][1]["content"] = "```grounding\n[1, 2]\n```"
            path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))


def made(study: SyntheticStudy) -> Results:
    study.write().make_all("score", "compare")
    write_text(study.root / "study.yaml", study_text(study.study, {}))
    return Results(study.root)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return made(SyntheticStudy(tmp_path_factory.mktemp("first")))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Other test users, another answer length, a newer torch, and an experiment by another name."""
    root = tmp_path_factory.mktemp("second")
    users, experiments = ["1", "2", "10", "new"], ["vanilla", "full_tuned"]
    newer = {"vanilla": {"torch": "99.0"}}
    changes = {"training": {"epochs": 2}}
    study = Changed(root, users=users, samples=13, experiments=experiments, other_versions=newer, changes=changes)
    return made(study)


def test_the_samples_of_both_are_compared_as_an_independent_calculation_does(first: Results, second: Results) -> None:
    shared = overlap_of(first, second)
    # Three users with 12 samples each, of which two are changed; ana's 12, and in the second 3 and 13 more.
    assert (len(shared.keys), shared.users, shared.changed) == (34, 3, 2)
    assert (shared.only_first, shared.only_second) == (12, 16)
    pairs = pairs_of(first, second, ["vanilla", "lora=full_tuned"])
    found = comparison(first, second, pairs, shared).to_dict("records")
    for (name, other), row in zip(pairs, found, strict=True):
        one, two = (
            pd.read_csv(results.folder / "tables/samples.csv", dtype={"user": str}).query("experiment == @own")
            for results, own in ((first, name), (second, other))
        )
        both = one.merge(two, on=["user", "id"])
        both = both[~both["id"].isin(["2/0", "2/1"])]
        column = first.primary.column
        gains = both[f"{column}_y"] - both[f"{column}_x"]
        by_user = gains.groupby(both["user"]).mean()
        assert row["difference"] == pytest.approx(by_user.mean())
        assert row["micro"] == pytest.approx(gains.mean())
        assert row["second_micro"] == pytest.approx(both[f"{column}_y"].mean())
        if by_user.std() > 0:
            low, high = stats.t.interval(0.95, len(by_user) - 1, by_user.mean(), stats.sem(by_user))
            assert (row["low"], row["high"]) == pytest.approx((max(low, -1), min(high, 1)))
        assert row["first_parse_rate"] == pytest.approx(both["parsed_x"].groupby(both["user"]).mean().mean())
    assert found[1]["first_value"] != found[1]["second_value"]


def test_what_differs_is_told(first: Results, second: Results) -> None:
    said = [f"{kind}: {text}" for kind, text in differences(first, second)]
    assert said == [
        "experiments: in the first alone: lora",
        "settings: experiments.full_tuned.training.epochs: 1.0 -> 2.0",
        "test users: in the first alone: ana",
        "test users: in the second alone: new",
        "data: other prepared samples of test users 1-2,10",
        'packages: torch: "2.14.1" -> "2.14.1, 99.0"',
    ]
    assert list(differences(first, first)) == []


def test_what_cannot_be_compared_is_told(first: Results, second: Results, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--pair lora: .* has no experiment 'lora'; it has vanilla, full_tuned"):
        pairs_of(first, second, ["lora"])
    with pytest.raises(UserError, match="name the results folder of a study that is complete"):
        _ = Results(tmp_path).manifest
    strangers = made(SyntheticStudy(tmp_path / "strangers", users=["8", "9", "x"], samples=2, experiments=["lora"]))
    with pytest.raises(UserError, match="share no test sample"):
        overlap_of(first, strangers)
    with pytest.raises(UserError, match=r"no experiment has the same name in both .*--pair ONE=OTHER"):
        pairs_of(second, strangers, [])


def test_the_command_prints_the_table_and_writes_it(
    first: Results, second: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "found.csv"
    arguments = [str(first.folder), str(second.folder), "--csv", str(table)]
    monkeypatch.setattr(sys, "argv", ["usertune", "compare", *arguments])
    monkeypatch.setenv("COLUMNS", "120")
    main()
    said = capsys.readouterr().out
    assert "34 samples of 3 users are in both; 2 with another question or expected answer are left out; 12 are" in said
    assert re.search(r"^ *vanilla +\d", said, re.MULTILINE)
    assert "p, corrected  over samples" in said
    assert list(pd.read_csv(table)["first"]) == ["vanilla", "full_tuned"]
