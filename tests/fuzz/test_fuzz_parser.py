"""Reading a point out of any text a model may write.

The table of `usertune.tasks.points.examples` says how each example is read; here it is varied, and whatever the
variation, an answer is read right or not at all.
"""

from __future__ import annotations

import json
import math
import re

from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.support.mutations import HOSTILE_TEXTS
from usertune.tasks.grounding import GroundingTask
from usertune.tasks.points.examples import EXAMPLES, HERE, Example
from usertune.tasks.points.forms import FORMS, REASONS
from usertune.tasks.points.values import LARGEST_COORDINATE

TASK = GroundingTask()
# Everything that the forms speak of, and characters that look like it.
PIECES = (
    *"[](){}<>0129.,-+:='\"xyabe_ %\n\t\r|;",
    *("```", "`", "grounding", "referring", "Grounding\n", "json", "```grounding\n", "```referring\n"),
    *("12", "304.5", "1000", "99999", "100001", "1e3", "nan", "inf", "9" * 400, ".5", "5.", "-1", "0.5", "1,024"),
    *('"x"', "x=", "y=", '"x": 1, "y": 2', "[1, 2]", "(1, 2, 3, 4)", "bbox_2d", '"point": ', "box_2d: ", "width: 3"),
    *(
        "<think>",
        "</think>",
        "<point>",
        "</point>",
        "<point x=",
        "<|box_start|>",
        "<answer>",
        "<tool_call>",
        "Action: ",
    ),
    *("click(", "scroll(", "at ", "to ", "size ", "top left", "bottom right", "(y, x)", "from the left ", "\\boxed{"),
    *("\uff08", "\uff09", "\uff0c", "\uff3b", "\uff3d", "\u3010", "\uff1a", "\u0663", "\uff11", "\u00b2", "\u00e9"),
    *("\u2003", "\x85", "\x1f", "\u5750\u6807", "\u201c", "\u201d"),
)
ANSWERS = st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(st.characters(), max_size=60)
NUMBERS = st.decimals(-2000, 2000, places=2, allow_nan=False).map(str)
# No quotation marks, within which numbers are somebody's words, and no comma, at which an answer seems cut off.
PROSE = st.text("abc dé.\u4e2d", max_size=20)
SENTENCES = st.sampled_from(
    ["", "I see it.\n", "The mail icon opens the inbox.\n\n", "Sure!\n", "\n", "  ", "Step 3 of 5.\n"]
)
READABLE = [example for example in EXAMPLES if example.form in FORMS]


def is_fraction(x: str, y: str) -> bool:
    return abs(float(x)) <= 1 and abs(float(y)) <= 1


@given(ANSWERS | st.sampled_from(HOSTILE_TEXTS))
@example('""0"x": 1, "y": 2')
@example('"arguments": "{\\"x\\": [1, "')
@example("<points coords=[")
def test_any_text_has_a_point_or_a_reason(answer: str) -> None:
    point, form = TASK.read(answer)
    assert form in (REASONS if point is None else FORMS)
    assert point is None or all(abs(value) <= LARGEST_COORDINATE for value in point)
    try:
        target = TASK.target_from_answer(answer)
    except ValueError as error:
        assert str(error).startswith("the answer")
        assert point is None or not all(0 <= value <= 1000 for value in point)
    else:
        assert TASK.read_target(target)[:2] == point


@given(st.sampled_from(EXAMPLES), SENTENCES, SENTENCES)
def test_an_example_among_harmless_sentences_keeps_its_point_or_loses_it(
    answer: Example, before: str, after: str
) -> None:
    found = TASK.parse(f"{before}{answer.text}\n{after}")
    # One that was cut off may be complete with a line break.
    assert found in (None, answer.point) or answer.form == "cut_off"


@given(st.sampled_from(EXAMPLES), st.sampled_from(EXAMPLES), st.sampled_from(["\n", "\n\n", "\n---\n", "\nThen:\n"]))
def test_two_answers_at_once_are_one_of_them_a_box_or_nothing(first: Example, second: Example, between: str) -> None:
    assume(first.form != "cut_off")
    found = TASK.parse(first.text + between + second.text)
    allowed = {None, first.point, second.point}
    if first.point and second.point:
        # Points on two lines that follow each other are corners.
        allowed.add(((first.point[0] + second.point[0]) / 2, (first.point[1] + second.point[1]) / 2))
    # What a referring line or a size has no part in the answer leaves is read alone.
    assert found in allowed or re.search("(?i)referring|image size", first.text)


@given(st.sampled_from(READABLE), st.integers(0, 1000), st.integers(0, 1000))
def test_other_numbers_in_a_form_are_read_in_the_same_places(answer: Example, x: int, y: int) -> None:
    numbers = re.findall(r"\d+(?:\.\d+)?", answer.text)
    assume(answer.point == HERE and numbers.count("512") == numbers.count("304") == 1)
    text = re.sub(r"(?<!\d)(?:512|304)(?!\d)", lambda match: str(x if match[0] == "512" else y), answer.text)
    assert TASK.parse(text) in (None, (x, y))


@given(NUMBERS, NUMBERS, PROSE, PROSE)
def test_a_point_comes_back_from_every_form_it_is_written_in(x: str, y: str, before: str, after: str) -> None:
    assume(not is_fraction(x, y) and (float(x), float(y)) != (-1, -1))
    expected = (float(x), float(y))
    for answer in (
        f"```referring\n{before}4 (1, 2)\n```\n```grounding\n[{x}, {y}]\n```",
        f"{before}\n```grounding\n{x} {y}\n```\n{after}",
        f"{x}, {y}\n{after}",
        f"{before}\n[{x},{y}]\n{after}",
        f"{before}\n\uff08{x}\uff0c{y}\uff09",
        f'{before} {{"x": {x}, "y": {y}}}{after}',
        f"click(start_box='({x},{y})')",
        f"<point>{x} {y}</point>",
        f"<think>{before} [1, 2]</think>\n[{x}, {y}]",
        json.dumps({"label": "(1, 2)", "point_2d": [float(x), float(y)]}),
        json.dumps({"name": "computer_use", "arguments": {"action": "left_click", "coordinate": [x, y]}}),
    ):
        assert TASK.parse(answer) == expected, answer


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_the_answer_that_models_are_trained_on_is_read_exactly(x: float, y: float) -> None:
    assume(abs(x) > 1 or abs(y) > 1 or (x.is_integer() and y.is_integer()))
    assume("e" not in f"{x!r}{y!r}")
    assert TASK.read(f"```referring\nmail\n```\n```grounding\n[{x!r}, {y!r}]\n```") == ((x, y), "grounding_block")


@given(st.lists(NUMBERS, min_size=4, max_size=4))
def test_a_box_stands_for_its_centre_and_anything_else_for_nothing(box: list[str]) -> None:
    left, top, right, bottom = map(float, box)
    assume(max(map(abs, (left, top, right, bottom))) > 1 and [*map(float, box)].count(-1) < 2)
    for answer in (f'{{"bbox_2d": [{", ".join(box)}]}}', f"({box[0]}, {box[1]}), ({box[2]}, {box[3]})"):
        found = TASK.parse(answer)
        if left <= right and top <= bottom and not (is_fraction(*box[:2]) or is_fraction(*box[2:])):
            assert found is not None
            assert math.isclose(found[0], (left + right) / 2, abs_tol=1e-9)
            assert math.isclose(found[1], (top + bottom) / 2, abs_tol=1e-9)
        elif left > right or top > bottom:
            assert found is None
