"""Reading points out of what models write."""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path

import pytest

from usertune.core.errors import UserError
from usertune.tasks.catalogue import get_task
from usertune.tasks.grounding import GroundingTask, distance
from usertune.tasks.points.examples import EXAMPLES, HERE, Example
from usertune.tasks.points.forms import FORMS, REASONS
from usertune.tasks.points.page import with_examples
from usertune.tasks.points.values import LARGEST_COORDINATE

TASK = GroundingTask()
PAGE = Path(__file__).resolve().parents[3] / "docs" / "answers.md"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.form}-{example.text[:40]!r}")
def test_every_example_is_read_as_the_table_says(example: Example) -> None:
    assert TASK.read(example.text) == (example.point, example.form)
    assert TASK.parse(example.text) == example.point


def test_the_table_has_an_example_of_every_form_and_reason_and_of_many_families() -> None:
    assert {example.form for example in EXAMPLES} == FORMS.keys() | REASONS.keys()
    assert not FORMS.keys() & REASONS.keys()
    assert all((example.point is None) == (example.form in REASONS) for example in EXAMPLES)
    assert len({example.text for example in EXAMPLES}) == len(EXAMPLES)
    families = Counter(example.style for example in EXAMPLES if example.style != "usertune")
    assert len(families) >= 10
    assert families.total() >= 92


def test_the_page_on_answers_has_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_examples(page) == page, "run: make schema"
    with pytest.raises(UserError, match="no part between"):
        with_examples(page.replace("<!-- end -->", ""))


@pytest.mark.parametrize(
    "text",
    [
        "(500, 290) -> (524, 318)",
        "(500,290) (524,318)",
        "[500, 290], [524, 318]",
        "[(500, 290), (524, 318)]",
        "500, 290\n524, 318",
        "Upper left (500, 290) lower right (524, 318)",
        "Bounding box: (500, 290) - (524, 318)",
        "The box goes from (500, 290) to (524, 318).",
        "click(start_box='(500,290),(524,318)')",
        "x_min=500, y_min=290, x_max=524, y_max=318",
        '{"x0": 500, "y0": 290, "x1": 524, "y1": 318}',
        '{"ymin": 290, "xmin": 500, "ymax": 318, "xmax": 524}',
        "bbox (x, y, w, h): (500, 290, 24, 28)",
        "xywh: [500, 290, 24, 28]",
        '{"left": 500, "top": 290, "width": 24, "height": 28}',
    ],
)
def test_a_box_is_read_as_its_centre_however_it_is_written(text: str) -> None:
    assert TASK.parse(text) == HERE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[524, 290, 500, 318]", "box_order"),
        ("(524, 318), (500, 290)", "disagree"),
        ("[1, 2], [3, 4], [5, 6]", "disagree"),
        ("- (100, 200)\n- (300, 400)", "disagree"),
        ("(100, 200) and (300, 400)", "disagree"),
        ('{"position": [500, 290], "width": 24, "height": 28}', "unclear"),
        ('{"position": [500, 290], "size": [24, 28]}', "unclear"),
        ("[0.1, 0.1]\n[512, 304]", "fraction"),
        ("[0, 0, 1, 1]", "fraction"),
        ("[-1, -1, -1, -1]", "no_point"),
        ('{"x": -1, "y": -1}', "no_point"),
        ("1,000,000", "thousands"),
        ("(0512, 00304)", "thousands"),
        ("(52%, 31)", "unclear"),
        ("512 30%", "unclear"),
        ("[512px, 304px]", "none"),
        ("[1e3, 4]", "none"),
        ("[nan, 3]", "none"),
        ("[inf, 3]", "none"),
        ("[1-2]", "none"),
        ("[1.2.3, 4]", "none"),
        ("(12:30, 14:45)", "none"),
        ("2026-11-27, 5", "none"),
        ("max: 5, y: 3", "incomplete"),
        (f"[{LARGEST_COORDINATE + 1}, 3]", "too_large"),
        (f"[{'9' * 5000}, 3]", "too_large"),
        ("<think>a</think>b<think>(1, 2)", "unfinished_thinking"),
        ("<|channel|>analysis<|message|>(1, 2)", "unfinished_thinking"),
        ("click(x=512, y=30", "cut_off"),
        ("<|box_start|>(500,290)", "cut_off"),
        ("(500, 290), (", "cut_off"),
        ('{"x": 500, "y": 290, "wid', "cut_off"),
        ('<point x="51.2" y="30.4"', "cut_off"),
        ("The point (304, 512) is in the order (y, x).", "order_unclear"),
        ("swipe(start=(1, 2), end=(3, 4))", "not_a_click"),
        ("type(content='x')", "not_a_click"),
        ('{"action": "mouse_move", "coordinate": [512, 304]}', "not_a_click"),
        ('{"action": "scroll", "coordinate": [512, 304]}', "not_a_click"),
        ("I see it. Scroll down at (512, 304).", "not_a_click"),
    ],
)
def test_doubt_is_unparsed_with_its_reason(text: str, reason: str) -> None:
    assert TASK.read(text) == (None, reason)


@pytest.mark.parametrize(
    "piece",
    [
        *("[", "(", "{", "1", "[1 ", "1, ", '"', "'", "x=", "x:1,", "`", "```", " ", "[1  ", ".", "1.", "-", "\n"),
        *("```grounding\n[1", "at (1, 2) ", "(1, 2)\n", "1, 2\n", "<point>", "<point x=1 y=2>", "<think>", "click("),
        *("click(1, 2)", '"point": [1, 2], ', '{"x": 1, "y": 2}, ', '"arguments": "\\"', '\\"', "top left (1, 2) "),
        *(
            "5% from the left ",
            "(x, y) = ",
            "Action: a\n",
            "<answer>",
            "\\boxed{",
            "[[1,2],",
            "((((1))))",
            "a",
            "\u201c",
        ),
    ],
)
def test_long_answers_take_linear_time(piece: str) -> None:
    text = (piece * 30_000)[:30_000]
    started = time.process_time()
    for ending in ("", "a", "]"):
        TASK.read(text + ending)
    assert time.process_time() - started < 6  # quadratic time would be minutes


def test_target_comes_from_the_answer_turn() -> None:
    assert TASK.target_from_answer("```grounding\n[311.5, 541]\n```") == {"point": [311.5, 541.0]}
    assert TASK.target_from_answer("[0, 1000]") == {"point": [0.0, 1000.0]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no idea", r"has no unambiguous point: no point is named \(none\); expected"),
        ("[1001, 5]", r"\[1001.0, 5.0\] lies"),
        ("scroll(coordinates=(512, 304), direction='down')", r"an action other than a click.*\(not_a_click\)"),
        ("swipe(512, 800, 512, 304)", "an action other than a click"),
        ("press_back()", "an action other than a click"),
        ("[-1, -1]", "no such element"),
        ("[0.52, 0.31]", r"fractions between 0 and 1.*\(fraction\)"),
        ("```grounding\n[1, 2]\n```\n```grounding\n[3, 4]\n```", "several different points"),
        ("The tab (2, 3)", r"\(unclear\)"),
    ],
)
def test_target_must_be_a_certain_point_inside(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TASK.target_from_answer(text)


@pytest.mark.parametrize("target", [{}, {"point": [1]}, {"point": [1, None]}, {"point": [1, math.nan]}, None])
def test_malformed_target_is_refused(target: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        TASK.read_target(target)


def test_distance_is_euclidean() -> None:
    assert distance((3.0, 4.0), (0, 0)) == 5


def test_unknown_task_names_the_known_ones() -> None:
    assert get_task("grounding").name == "grounding"
    with pytest.raises(UserError, match=r"'texts'.*grounding"):
        get_task("texts")
