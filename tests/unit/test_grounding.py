"""Reading points out of what models write."""

from __future__ import annotations

import math
import time

import pytest

from usertune.errors import UserError
from usertune.tasks import get_task
from usertune.tasks.grounding import LARGEST_COORDINATE, GroundingTask

TASK = GroundingTask()


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("```referring\nicon4 (1, 2)\n```\n```grounding\n[311.5, 541.2]\n```", (311.5, 541.2)),
        ("```grounding\n[5, -6]", (5, -6)),
        ("```referring\n[1, 2]\n```grounding\n[3, 4]", (3, 4)),
        ("```Grounding [7, 8]```", (7, 8)),
        ("(9, 9)\n```grounding\n512 304\n```", (512, 304)),
        ("```grounding\n[1, 2]\n[3, 4]\n```", (1, 2)),
        ("```grounding\n[1, 2]\n```\n```grounding\n[3, 4]\n```", (1, 2)),
        ("(1, 2)", (1, 2)),
        ("512,304", (512, 304)),
        ("512 304.\r\n", (512, 304)),
        ("512, 304\nis the point, 3 times", (512, 304)),
        ("[10, 20, 30, 40]", (20, 30)),
        ('{"x": 1, "y": 2}', (1, 2)),
        ("Tap x=5, y=6.", (5, 6)),
        ('{"point_2d": [5, 6]}', (5, 6)),
        ('```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "(1, 2)"}, {"bbox_2d": [1, 2, 3, 4]}]\n```', (20, 30)),
        ('{"label": "(1, 2)", "point_2d": [5, 6]}', (5, 6)),
        ("click(coordinates=(336, 1267), content='x')", (336, 1267)),
        ("\uff08512\uff0c304\uff09", (512, 304)),
        ("Step [3]: (4, 5)", (4, 5)),
        ("[.5, +7]", (0.5, 7)),
        ("[1500, -20]", (1500, -20)),
    ],
)
def test_reads_a_point(text: str, point: tuple[float, float]) -> None:
    assert TASK.parse(text) == point


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot see it.",
        "icon4 5",
        "tap it 3 times, then 5",
        "```referring\n[1, 2]\n```",
        "```referring\n[1, 2]",
        "[1, 2]\n```grounding\nnothing\n```",
        "[1, 2, 3]",
        "[1, 2, 3, 4, 5]",
        "1 2 3",
        "[512, 30",
        "[512px, 304px]",
        "[1e3, 4]",
        "[nan, 3]",
        "[inf, 3]",
        "[1-2]",
        "[1.2.3, 4]",
        "max: 5, y: 3",
        f"[{LARGEST_COORDINATE + 1}, 3]",
        f"[{'9' * 5000}, 3]",
    ],
)
def test_unparsed_is_none_and_never_a_point(text: str) -> None:
    assert TASK.parse(text) is None


@pytest.mark.parametrize(
    "piece", ["[", "1", "[1 ", "1, ", '"', "x=", "x:1,", "```", " ", "[1  ", ".", "1.", "-", "\n", "```grounding\n[1"]
)
def test_long_answers_take_linear_time(piece: str) -> None:
    text = (piece * 100_000)[:100_000]
    started = time.perf_counter()
    for ending in ("", "a", "]"):
        TASK.parse(text + ending)
    assert time.perf_counter() - started < 2  # quadratic time would be minutes


def test_target_comes_from_the_answer_turn() -> None:
    assert TASK.target_from_answer("```grounding\n[311.5, 541]\n```") == {"point": [311.5, 541.0]}
    assert TASK.target_from_answer("[0, 1000]") == {"point": [0.0, 1000.0]}


@pytest.mark.parametrize(("text", "reason"), [("no idea", "holds no point"), ("[1001, 5]", r"\[1001.0, 5.0\] lies")])
def test_target_must_be_a_point_inside(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TASK.target_from_answer(text)


@pytest.mark.parametrize("target", [{}, {"point": [1]}, {"point": [1, None]}, {"point": [1, math.nan]}, None])
def test_malformed_target_is_refused(target: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        TASK.target_point(target)


def test_distance_is_euclidean() -> None:
    assert TASK.distance((3.0, 4.0), {"point": [0, 0]}) == 5


def test_unknown_task_names_the_known_ones() -> None:
    assert get_task("grounding").name == "grounding"
    with pytest.raises(UserError, match=r"'texts'.*grounding"):
        get_task("texts")
