"""The warning about answers that could not be read."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usertune.evaluation.answers import Answer
from usertune.evaluation.unread import LONGEST_ANSWER, quoted, warn_of_unread


def _warning(folder: Path, parsed: int, caplog: pytest.LogCaptureFixture) -> str:
    rows = folder / "rows.csv"
    rows.write_text("id,parsed\n" + "".join(f"7-{number},{int(number < parsed)}\n" for number in range(6)))
    answers = {f"7-{number}": Answer(f"I see\n\x1b[2J {number}") for number in range(6)}
    metrics = {"experiment": "vanilla", "user": "7", "samples": 6, "parsed": parsed, "parse_rate": parsed / 6}
    with caplog.at_level(logging.WARNING):
        warn_of_unread(metrics, rows, answers, 0.9)
    (said,) = caplog.messages
    return said


def test_three_of_the_unread_answers_are_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = _warning(tmp_path, 2, caplog)
    assert said.startswith(
        "warning: vanilla, user 7: only 2 of 6 answers could be read (evaluation.expected_parse_rate: 0.9)"
    )
    assert said.splitlines()[1:] == [f'  7-{number}: "I see\\n\\u001b[2J {number}"' for number in (2, 3, 4)]


def test_fewer_are_shown_where_there_are_fewer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = _warning(tmp_path, 5, caplog)
    assert len(said.splitlines()) == 2


@given(st.text())
def test_any_answer_is_shown_in_one_short_line(text: str) -> None:
    shown = quoted(text * 40)
    assert shown.isprintable()
    assert len(shown) <= 10 * LONGEST_ANSWER + 5
