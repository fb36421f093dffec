"""The table of `usertune check`: clean at every width, and its parts add up."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from tests.support.synthetic_study import SyntheticStudy
from usertune.checks.estimates.machine import Machine
from usertune.checks.estimates.memory import Parts
from usertune.checks.estimates.study import Estimate, estimate
from usertune.checks.estimates.view import PREDICTION_PARTS, TRAINING_PARTS, render

BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
GROUPS = ["Training", "Memory for training", "Disk for training", "Memory for prediction"]


@pytest.fixture
def estimated(make_study: Callable[..., SyntheticStudy]) -> Estimate:
    return estimate(make_study().study, Machine("gpu", 80 * 2**30, "a test"))


def _lines(estimate: Estimate, width: int) -> list[str]:
    output = io.StringIO()
    Console(file=output, width=width, highlight=False, markup=False).print(render(estimate, width), crop=False)
    return [line.rstrip() for line in output.getvalue().splitlines()]


def _rows(lines: list[str]) -> list[tuple[str, list[str]]]:
    """Return title and cells of each line of the table."""
    start = lines.index("Training")
    parts = [re.split(r" {2,}", line.strip()) for line in lines[start : lines.index("", start)]]
    return [(title, cells) for title, *cells in parts]


def _bytes(cell: str) -> tuple[float, float]:
    """Return a number of bytes, and half of its last digit."""
    if cell == "0":
        return 0, 0
    number, unit = cell.split()
    return float(number.replace(",", "")) * BYTES[unit], 0.05 * BYTES[unit]


@pytest.mark.parametrize("width", [80, 120])
def test_no_row_is_wrapped_and_groups_have_headings(estimated: Estimate, width: int) -> None:
    lines = _lines(estimated, width)
    assert max(map(len, lines)) <= width
    rows = _rows(lines)
    assert [title for title, cells in rows if not cells] == GROUPS
    assert {len(cells) for _, cells in rows if cells} == {3}


def test_parts_add_up_to_the_total_shown(estimated: Estimate) -> None:
    rows = _rows(_lines(estimated, 120))
    for heading, parts in ((GROUPS[1], TRAINING_PARTS), (GROUPS[3], PREDICTION_PARTS)):
        start = rows.index((heading, [])) + 1
        titles = [title for title, _ in rows[start : start + len(parts)]]
        assert titles == list(parts.values())
        title, totals = rows[start + len(parts)]
        assert title == "total"
        for column, total in enumerate(totals):
            if total == "-":
                continue
            shown = [_bytes(cells[column]) for _, cells in rows[start : start + len(parts)]]
            value, half = _bytes(total)
            assert sum(part for part, _ in shown) == pytest.approx(value, abs=half + sum(half for _, half in shown))


def test_every_part_has_a_row(estimated: Estimate) -> None:
    def keys(memories: list[Parts]) -> set[frozenset[str]]:
        return {frozenset(memory) for memory in memories}

    assert keys([one.memory for one in estimated.trainings.values()]) == {frozenset(TRAINING_PARTS)}
    assert keys([one.memory for one in estimated.predictions.values()]) == {frozenset(PREDICTION_PARTS)}


def test_experiments_that_do_not_fit_next_to_each_other_come_in_further_tables(estimated: Estimate) -> None:
    names = [f"lora-{number}-with-a-long-name" for number in range(7)]
    many = replace(estimated, trainings=dict.fromkeys(names, estimated.trainings["lora"]), predictions={})
    lines = _lines(many, 80)
    assert max(map(len, lines)) <= 80
    assert lines.count("Training") == 4
    assert [name for line in lines for name in line.split() if name in names] == names
