"""Short answers in words: how they are read, and the metrics against values worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usertune.tasks.metrics import at_thresholds, sample_values
from usertune.tasks.text import METRICS, REASONS, TextTask, anls, exact, normalised, normalised_match, token_f1
from usertune.tasks.truth import NotAskedError, Truth

TASK = TextTask()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Paris", ("Paris", "text")),
        (" Paris\n", ("Paris", "text")),
        ("<think>London?</think>\nParis", ("Paris", "text")),
        ("It is <answer>Paris</answer>.", ("Paris", "answer_tag")),
        ("So \\boxed{Paris}", ("Paris", "answer_tag")),
        ("I think.\nAnswer: Paris", ("Paris", "answer_line")),
        ("", (None, "empty")),
        ("<answer> </answer>", (None, "empty")),
        ("<think>Paris", (None, "unfinished_thinking")),
        ("<answer>Paris</answer> or <answer>Rome</answer>", (None, "disagree")),
    ],
)
def test_the_text_that_counts(text: str, found: tuple[str | None, str]) -> None:
    assert TASK.read(text) == found
    assert found[0] is not None or found[1] in REASONS


def test_normalisation_is_that_of_squad() -> None:
    assert normalised("The  Eiffel-Tower, a tower!") == "eiffeltower tower"
    assert normalised_match("The Cat.", ["a cat"]) == 1
    assert exact("The Cat.", ["a cat"]) == 0
    assert exact(" a cat ", ["dog", "a cat"]) == 1


def levenshtein(one: str, other: str) -> int:
    """Edit distance by the textbook, independent of the library."""
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, start=1):
        before, row[0] = row[0], number
        for column, against in enumerate(other, start=1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (letter != against))
    return row[-1]


@given(
    st.text("abc ", min_size=1, max_size=8), st.lists(st.text("abc ", min_size=1, max_size=8), min_size=1, max_size=3)
)
def test_anls_is_that_of_its_definition(answer: str, answers: list[str]) -> None:
    def one(expected: str) -> float:
        given, wanted = answer.strip(), expected.strip()
        longest = max(len(given), len(wanted))
        distance = levenshtein(given, wanted) / longest if longest else 0
        return 1 - distance if distance < 0.5 else 0

    assert anls(answer, answers) == pytest.approx(max(map(one, answers)))


def test_anls_at_its_threshold_is_nothing() -> None:
    assert anls("ab", ["ax"]) == 0  # NL = 0.5 is not below 0.5
    assert anls("Abc", ["abd"]) == pytest.approx(2 / 3)


def test_token_f1_is_that_worked_out_by_hand() -> None:
    """2 words in common, of 3 given and 4 expected: precision 2/3, recall 1/2, F1 4/7."""
    assert token_f1("red green blue", ["red green black white"]) == pytest.approx(4 / 7)
    assert token_f1("red red", ["red"]) == pytest.approx(2 / 3)
    assert token_f1("x", ["y", "x"]) == 1
    assert (token_f1("the", ["a"]), token_f1("the", ["x"])) == (1, 0)


def test_the_best_accepted_answer_counts_and_unparsed_ones_are_wrong() -> None:
    metrics = at_thresholds(METRICS, [140])
    target = TASK.read_target(
        TASK.target_from_truth(Truth("finish", text="Paris", accepted=("Paris, France", "Paris")))
    )
    assert target == ["Paris", "Paris, France"]
    assert set(sample_values(metrics, "paris france", target).values()) > {1}
    assert sample_values(metrics, None, target) == {metric.column: 0 for metric in metrics}


def test_the_answer_is_the_text_and_other_actions_are_not_asked_for() -> None:
    assert TASK.answer(Truth("finish", text="Paris")) == "Paris"
    assert TASK.target_from_answer("<answer>Paris</answer>") == {"answers": ["Paris"]}
    with pytest.raises(NotAskedError, match="click"):
        TASK.answer(Truth("click", point=(1, 2)))
    with pytest.raises(ValueError, match="no text"):
        TASK.answer(Truth("finish", text=" "))
    with pytest.raises(ValueError, match=r"there is no text \(empty\)"):
        TASK.target_from_answer("")
    assert TASK.parse("512, 304") is None


@pytest.mark.parametrize("target", [None, {}, {"answers": []}, {"answers": "Paris"}, {"answers": [1]}])
def test_a_malformed_target_is_refused(target: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        TASK.read_target(target)


def test_the_report_says_what_came_of_an_answer() -> None:
    row = {"parsed": 1, "form": "text", "normalised_match": 0, "anls": 0.666}
    assert TASK.outcome(row, 140) == "wrong, ANLS 0.67"
    assert TASK.outcome({**row, "normalised_match": 1}, 140) == "right"
    assert TASK.outcome({**row, "parsed": 0, "form": "empty"}, 140) == "not parsed (empty), wrong"
