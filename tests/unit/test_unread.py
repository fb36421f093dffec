"""The warning about answers that could not be read."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usertune.unread import LONGEST_ANSWER, printable, warn_if_unread


def _warned(folder: Path, parsed: int, expected: float, caplog: pytest.LogCaptureFixture) -> list[str]:
    rows = folder / "rows.csv"
    rows.write_text("id,parsed\n" + "".join(f"7-{number},{int(number < parsed)}\n" for number in range(6)))
    texts = {f"7-{number}": f"I see\n\x1b[2J {number}" for number in range(6)}
    metrics = {"experiment": "vanilla", "user": "7", "samples": 6, "parsed": parsed, "parse_rate": parsed / 6}
    with caplog.at_level(logging.WARNING):
        warned = warn_if_unread(metrics, rows, texts, expected)
    assert warned == bool(caplog.messages)
    return caplog.messages


def test_three_of_the_unread_answers_are_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (said,) = _warned(tmp_path, 2, 0.5, caplog)
    assert said.startswith(
        "warning: vanilla, user 7: only 2 of 6 answers could be read (evaluation.expected_parse_rate: 0.5)"
    )
    assert said.splitlines()[1:] == [f'  7-{number}: "I see\\n\\u001b[2J {number}"' for number in (2, 3, 4)]


def test_fewer_are_shown_where_there_are_fewer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (said,) = _warned(tmp_path, 5, 1.0, caplog)
    assert len(said.splitlines()) == 2


@pytest.mark.parametrize(("parsed", "expected"), [(3, 0.5), (0, 0.0), (6, 1.0)])
def test_no_warning_where_as_many_as_expected_were_read(
    parsed: int, expected: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert _warned(tmp_path, parsed, expected, caplog) == []


@given(st.text())
def test_any_answer_is_shown_in_one_short_line(text: str) -> None:
    shown = printable(text * 40)
    assert shown.isprintable()
    assert len(shown) <= 10 * LONGEST_ANSWER + 5
