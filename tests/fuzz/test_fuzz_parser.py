"""Reading a point out of any text a model may write."""

from __future__ import annotations

import json
import math

from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz import reference_parser
from tests.fuzz.mutations import HOSTILE_TEXTS
from usertune.tasks.grounding import LARGEST_COORDINATE, GroundingTask

TASK = GroundingTask()
# Everything that the rules speak of, and characters that look like it.
PIECES = (
    *"[](){}0129.,-+:='\"xyabe_ \n\t\r",
    *("```", "`", "grounding", "referring", "Grounding\n", "json", "```grounding\n", "```referring\n"),
    *("12", "304.5", "1000", "99999", "100001", "1e3", "nan", "inf", "9" * 400, ".5", "5."),
    *('"x"', "x=", "y=", '"x": 1, "y": 2', "[1, 2]", "(1, 2, 3, 4)", "bbox_2d"),
    *(
        "\uff08",
        "\uff09",
        "\uff0c",
        "\uff3b",
        "\uff3d",
        "\u0663",
        "\uff11",
        "\u00b2",
        "\u00e9",
        "\u2003",
        "\x85",
        "\x1f",
    ),
)
ANSWERS = st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(st.characters(), max_size=60)
NUMBERS = st.decimals(-2000, 2000, places=2, allow_nan=False).map(str)
PROSE = st.text("abc dé,.'\u4e2d", max_size=20)


@given(ANSWERS)
@example("x: 1, y: 2")
@example('"(1, 2)" (3, 4)')
@example('""0"x": 1, "y": 2')
def test_any_answer_is_read_as_the_rules_say(answer: str) -> None:
    assert TASK.parse(answer) == reference_parser.parse(answer)


@given(ANSWERS | st.sampled_from(HOSTILE_TEXTS))
def test_a_point_is_finite_and_a_target_lies_on_the_screen(answer: str) -> None:
    point = TASK.parse(answer)
    assert point is None or all(abs(value) <= LARGEST_COORDINATE for value in point)
    try:
        target = TASK.target_from_answer(answer)
    except ValueError as error:
        assert str(error).startswith("the answer")
        assert point is None or not all(0 <= value <= 1000 for value in point)
    else:
        assert TASK.target_point(target) == point
        assert TASK.distance(TASK.target_point(target), target) == 0


@given(NUMBERS, NUMBERS, PROSE, PROSE)
def test_a_point_comes_back_from_every_form_it_is_written_in(x: str, y: str, before: str, after: str) -> None:
    expected = (float(x), float(y))
    for answer in (
        f"```referring\n{before}4 (1, 2)\n```\n```grounding\n[{x}, {y}]\n```",
        f"{before}\n```grounding\n{x} {y}\n```\n{after}",
        f"{x}, {y}\n{after}",
        f"{before}[{x},{y}]{after}",
        f"{before} \uff08{x}\uff0c{y}\uff09{after}",
        f'{before} {{"x": {x}, "y": {y}}}{after}',
        json.dumps({"label": "(1, 2)", "point_2d": [float(x), float(y)]}),
    ):
        assert TASK.parse(answer) == expected, answer


@given(st.lists(NUMBERS, min_size=4, max_size=4))
def test_a_box_stands_for_its_centre(box: list[str]) -> None:
    left, top, right, bottom = map(float, box)
    found = TASK.parse(f'{{"bbox_2d": [{", ".join(box)}]}}')
    assert found is not None
    assert math.isclose(found[0], (left + right) / 2)
    assert math.isclose(found[1], (top + bottom) / 2)
