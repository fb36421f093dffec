"""The hypothesis of a study and what chooses the settings of its groups: read, or refused with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from usertune.core.errors import UserError
from usertune.study.load import load_study

HEAD = """name: small
dataset: {root: data}
users: {train: 3-5, validation: 6, test: 1-2}
base_model: {path: base}
experiments:
  vanilla: {mode: vanilla}
  runs: {mode: lora, sweep: {seed: [0, 1]}}
  rates: {mode: lora, sweep: {learning_rate: [1e-4, 1e-3]}}
"""


def load(folder: Path, text: str) -> object:
    file = folder / "study.yaml"
    file.write_text(text)
    return load_study([file])


def test_a_sentence_alone_or_with_comparisons_of_experiments_and_groups(tmp_path: Path) -> None:
    study = load(tmp_path, HEAD + "hypothesis: >\n  Seeds\n  do not matter.\n")
    assert (study.hypothesis.text, study.comparisons) == ("Seeds do not matter.", ())  # type: ignore[attr-defined]
    pairs = "[[runs, vanilla], [rates, runs_seed0]]"
    study = load(tmp_path, HEAD + f"hypothesis: {{text: Seeds., comparisons: {pairs}}}\n")
    assert study.comparisons == (("runs", "vanilla"), ("rates", "runs_seed0"))  # type: ignore[attr-defined]
    assert study.selection("rates") == "loss"  # type: ignore[attr-defined]
    assert study.selection("runs") is None, "one setting"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("hypothesis", "said"),
    [
        ("{comparisons: [[runs, vanilla]]}", "study.yaml:9: hypothesis.text: this key is required but missing"),
        ("{text: ''}", "study.yaml:9: hypothesis.text: a sentence is needed"),
        ("''", "study.yaml:9: hypothesis.text: a sentence is needed"),
        ("3", "study.yaml:9: hypothesis: 3 is not allowed"),
        ("{text: a, comparison: []}", "study.yaml:9: hypothesis.comparison: unknown key; did you mean 'comparisons'?"),
        (
            "\n  text: a\n  comparisons:\n    - [runs, vanilla]\n    - [runs, vanila]",
            "study.yaml:13: hypothesis.comparisons.1: there is no experiment or group 'vanila'; use one of: vanilla, ",
        ),
        (
            "{text: a, comparisons: [[runs]]}",
            "study.yaml:9: hypothesis.comparisons.0: ['runs'] is no comparison; write",
        ),
        ("{text: a, comparisons: [runs, vanilla]}", "hypothesis.comparisons.0: 'runs' is no comparison; write two"),
        (
            "{text: a, comparisons: [[runs, runs]]}",
            "study.yaml:9: hypothesis: comparisons: runs is compared with itself",
        ),
        (
            "{text: a, comparisons: [[runs, vanilla], [vanilla, runs]]}",
            "study.yaml:9: hypothesis: comparisons: vanilla and runs are compared twice; keep one of them",
        ),
    ],
)
def test_mistakes_in_a_hypothesis(hypothesis: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, f"{HEAD}hypothesis: {hypothesis}\n")
    assert said in str(caught.value)


def test_a_group_without_a_chosen_setting_cannot_be_compared(tmp_path: Path) -> None:
    text = HEAD.replace("rates: {mode: lora,", "rates: {mode: lora, select: none,")
    with pytest.raises(UserError) as caught:
        load(tmp_path, f"{text}hypothesis: {{text: a, comparisons: [[rates, vanilla]]}}\n")
    assert "study.yaml:9: hypothesis.comparisons.0: rates has several settings, and none of them is chosen" in str(
        caught.value
    )
    assert "rates_lr1e_4, rates_lr1e_3" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "rates: {mode: lora,", "rates: {select: loss, mode: lora,",
            "study.yaml:8: experiments.rates.select: users.validation is empty, and the best setting is chosen by the",
        ),
        (
            "rates: {mode: lora, sweep: {learning_rate: [1e-4, 1e-3]}}",
            "rates: {mode: vanilla, select: loss, sweep: {max_new_tokens: [5, 6]}}",
            "study.yaml:8: experiments.rates.select: the experiment has no validation loss, because it is not trained",
        ),
        (
            "vanilla: {mode: vanilla}", "vanilla: {mode: vanilla, select: none}",
            "study.yaml:6: experiments.vanilla.select: the experiment is in no group; remove this key",
        ),
        (
            "vanilla: {mode: vanilla}", "vanilla: {mode: vanilla, group: runs, select: none}",
            "study.yaml:6: experiments.vanilla.select: the experiments of the group runs have different values",
        ),
        (
            "rates: {mode: lora,", "rates: {select: accuracy, mode: lora,",
            "study.yaml:8: experiments.rates.select: users.validation is empty, and the best setting is chosen by the "
            "answers for these users; add users",
        ),
        ("rates: {mode: lora,", "rates: {select: test, mode: lora,", "select: 'test' is not allowed; use one of: "),
    ],
)  # fmt: skip
def test_a_choice_that_cannot_be_made(old: str, new: str, said: str, tmp_path: Path) -> None:
    text = HEAD.replace("validation: 6, ", "")
    assert old in text
    with pytest.raises(UserError) as caught:
        load(tmp_path, text.replace(old, new))
    assert said in str(caught.value)
    assert "(1 problem)" in str(caught.value)


def test_without_validation_users_no_setting_is_chosen_unless_the_study_asks_for_it(tmp_path: Path) -> None:
    study = load(tmp_path, HEAD.replace("validation: 6, ", ""))
    assert study.selection("rates") is None  # type: ignore[attr-defined]
    assert study.chosen_by_loss == ()  # type: ignore[attr-defined]


def test_settings_without_a_validation_loss_are_not_chosen_and_the_message_asks_for_none(tmp_path: Path) -> None:
    own = "  own: {mode: lora, scope: personal, sweep: {samples: [10, all], seed: [0, 1]}}\n"
    text = HEAD + own + "folds: {count: 3}\n"
    assert load(tmp_path, text).selection("own") is None  # type: ignore[attr-defined]
    with pytest.raises(UserError) as caught:
        load(tmp_path, text + "hypothesis: {text: a, comparisons: [[own, vanilla]]}\n")
    said = "none of them is chosen; name one of its experiments: own_samples10_seed0, own_samples10_seed1, "
    assert f"study.yaml:11: hypothesis.comparisons.0: own has several settings, and {said}" in str(caught.value)
    with pytest.raises(UserError) as caught:
        load(tmp_path, text.replace("scope: personal,", "scope: personal, select: loss,"))
    assert "study.yaml:9: experiments.own.select: the experiment has no validation loss" in str(caught.value)
    with pytest.raises(UserError) as caught:
        load(tmp_path, text.replace("scope: personal,", "scope: personal, select: accuracy,"))
    said = "accuracy: these weights are trained on samples of the test users themselves"
    assert f"study.yaml:9: experiments.own.select: {said}" in str(caught.value)


def test_history_of_another_user_needs_two_validation_users_to_be_chosen_by_accuracy(tmp_path: Path) -> None:
    told = "  told: {mode: vanilla, context: {of: other_user}, select: accuracy, sweep: {context.episodes: [1, 2]}}\n"
    with pytest.raises(
        UserError, match=r"study.yaml:9: experiments.told.select: accuracy: users.validation has one user"
    ):
        load(tmp_path, HEAD + told)
    study = load(tmp_path, HEAD.replace("validation: 6", "validation: 6-7") + told)
    assert study.next_user("7") == "6"  # type: ignore[attr-defined]
