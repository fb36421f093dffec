"""Recorded answers scored here and by the published rules agree, sample by sample.

The answers are made in the styles of twelve families of models. Each rule is written down again here in a few lines,
from its paper or its definition. Where the two must not agree, the test says why, and fails if they do agree.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from usertune.evaluation.answers import Answer
from usertune.evaluation.recipe import measured
from usertune.evaluation.score import score_samples

Point = tuple[int, int]


def _box(x: int, y: int) -> tuple[int, int, int, int]:
    return x - 6, y - 8, x + 6, y + 8


STYLES: dict[str, Callable[[int, int], str]] = {
    "reference": lambda x, y: f"```referring\nmail\n```\n```grounding\n[{x}, {y}]\n```",
    "Qwen2-VL": lambda x, y: "<ref>mail</ref><box>({},{}),({},{})</box>".format(*_box(x, y)),
    "Qwen3-VL": lambda x, y: f'```json\n[{{"point_2d": [{x}, {y}], "label": "mail"}}]\n```',
    "Qwen tools": lambda x, y: (
        '<tool_call>\n{"name": "mobile_use", "arguments": {"action": "click", "coordinate": '
        f"[{x}, {y}]}}}}\n</tool_call>"
    ),
    "UI-TARS": lambda x, y: f"Thought: The tab (2, 3) is not it.\nAction: click(start_box='({x},{y})')",
    "OS-Atlas": lambda x, y: f"actions:\nCLICK <point>[[{x},{y}]]</point>",
    "CogAgent": lambda x, y: "Grounded Operation: CLICK(box=[[{},{},{},{}]], element_info='mail')".format(*_box(x, y)),
    "InternVL": lambda x, y: "<ref>mail</ref><box>[[{}, {}, {}, {}]]</box>".format(*_box(x, y)),
    "GLM-4.5V": lambda x, y: f"<think>(2, 3)?</think><|begin_of_box|>[[{x}, {y}]]<|end_of_box|>",
    "AutoGLM": lambda x, y: f'do(action="Tap", element=[{x},{y}])',
    "Gemini": lambda x, y: '```json\n[{{"box_2d": [{1}, {0}, {3}, {2}], "label": "mail"}}]\n```'.format(*_box(x, y)),
    "FingerTip": lambda x, y: f"click(coordinates=({x}, {y}), content='mail')",
}
TARGET, BOX = (512, 304), (500, 290, 524, 318)
# Inside, on the edges and corners, just outside, and around the circle of 140.
POINTS: list[Point] = [
    TARGET, (500, 290), (524, 318), (500, 304), (512, 318), (499, 304), (525, 304), (512, 289), (512, 319),
    (652, 304), (653, 304), (512, 444), (512, 445), (100, 900), (20, 30),
]  # fmt: skip
RECORDED = [(style, point, text(*point)) for (style, text), point in itertools.product(STYLES.items(), POINTS)]
NO_ANSWER = ["I cannot see it.", "", "Scroll down at (512, 304).", "```grounding\nnothing\n```"]


def scored(target: dict[str, Any], texts: list[str], task: str = "grounding", *further: str) -> list[dict[str, Any]]:
    """Return the rows of answers to samples with one target, as the score step makes them."""
    turns = [{"role": "assistant", "content": [{"type": "text", "text": STYLES["reference"](*TARGET)}]}]
    samples = [
        {"id": str(number), "user": "1", "episode": str(number), "step": 0, "target": target, "messages": turns}
        for number in range(len(texts))
    ]
    given = {str(number): Answer(text) for number, text in enumerate(texts)}
    return score_samples(task, measured((task, *further), [140]), samples, given, Path("user_1.jsonl"))


def in_box(point: tuple[float, float], box: tuple[float, ...]) -> int:
    """ScreenSpot (arXiv:2401.10935, section 4.2) and ScreenSpot-Pro (arXiv:2504.07981)."""
    return int(box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3])


def test_twelve_styles_agree_with_screenspot_on_every_sample() -> None:
    rows = scored({"point": list(TARGET), "box": list(BOX)}, [text for *_, text in RECORDED])
    for (style, point, text), row in zip(RECORDED, rows, strict=True):
        assert row["in_box"] == in_box(point, BOX), (style, text)


def seeclick_point(text: str) -> tuple[float, float] | None:
    """What SeeClick's ScreenSpot test reads: a <box>, or all numbers if they are two or four; as fractions."""
    if "box" in text:
        found = re.findall(r"<box>\((\d+),(\d+)\),\((\d+),(\d+)\)</box>", text)
        values = [float(value) / 1000 for value in found[0]] if found else []
    else:
        values = [float(value) for value in re.findall(r"-?\d+\.?\d*", text)]
    if len(values) not in (2, 4):
        return None
    return (values[0], values[1]) if len(values) == 2 else ((values[0] + values[2]) / 2, (values[1] + values[3]) / 2)


SEECLICK_DIFFERENCES = {
    "GLM-4.5V": "the name of the tag holds 'box', so its numbers are not read",
    "UI-TARS": "'start_box' holds 'box', so its numbers are not read",
    "CogAgent": "'box=' is not '<box>', so its numbers are not read",
    "InternVL": "only Qwen-VL's brackets within <box> are read",
    "Gemini": "'box_2d' holds 'box', so its numbers are not read",
    "Qwen3-VL": "the 2 of 'point_2d' counts as a number, so there are three",
    "reference": "outside <box>, numbers are taken as fractions of 1, so 0-1000 is off the screen",
    "Qwen tools": "as above",
    "OS-Atlas": "as above",
    "AutoGLM": "as above",
    "FingerTip": "as above",
}


@pytest.mark.parametrize("style", STYLES)
def test_the_scorer_of_seeclick_agrees_or_has_a_known_defect(style: str) -> None:
    """Its fractions are those of a box in 0-1; a hit of ours is a miss there for each style with a defect."""
    mine = [(point, text) for name, point, text in RECORDED if name == style]
    rows = scored({"point": list(TARGET), "box": list(BOX)}, [text for _, text in mine])
    fractions = tuple(value / 1000 for value in BOX)
    theirs = [in_box(found, fractions) if (found := seeclick_point(text)) else 0 for _, text in mine]
    ours = [row["in_box"] for row in rows]
    assert (theirs == ours) == (style not in SEECLICK_DIFFERENCES), SEECLICK_DIFFERENCES.get(style)
    assert style not in SEECLICK_DIFFERENCES or not any(theirs)


@pytest.mark.parametrize("width", [1000, 1920, 3840])
def test_screenspot_pro_agrees_only_if_answers_are_divided_by_their_own_frame(width: int) -> None:
    """Known defect: adapters that divide by the width in pixels put answers in 0-1000 near the left top corner."""
    height = width * 9 // 16 if width > 1000 else 1000
    pixels = tuple(value / 1000 * (width, height)[index % 2] for index, value in enumerate(BOX))
    share = tuple(value / (width, height)[index % 2] for index, value in enumerate(pixels))
    texts = [text for *_, text in RECORDED]
    ours = [row["in_box"] for row in scored({"point": list(TARGET), "box": list(BOX)}, texts)]
    right = [in_box((point[0] / 1000, point[1] / 1000), share) for _, point, _ in RECORDED]
    by_pixels = [in_box((point[0] / width, point[1] / height), share) for _, point, _ in RECORDED]
    assert ours == right
    assert (by_pixels == ours) == (width == 1000)
    assert width == 1000 or not any(by_pixels)


def aitw_match(answer: dict[str, Any], target: dict[str, Any]) -> int:
    """Android in the Wild (arXiv:2307.10088, section 4.1).

    Kinds are equal; taps are within 0.14 of the screen, or both in one element, enlarged to 2.4 times its size;
    gestures move on one axis.
    """
    if answer["action"] != target["action"]:
        return 0
    if target["action"] == "click":
        first, second = ((x / 1000, y / 1000) for x, y in (answer["point"], target["point"]))
        box = target.get("box")
        if box:
            left, top, right, bottom = (value / 1000 for value in box)
            wide, high = 0.7 * (right - left), 0.7 * (bottom - top)
            enlarged = (left - wide, top - high, right + wide, bottom + high)
            if in_box(first, enlarged) and in_box(second, enlarged):
                return 1
        return int(math.dist(first, second) <= 0.14 + 1e-12)
    if target["action"] == "scroll":
        axis = {"up": 1, "down": 1, "left": 0, "right": 0}
        return int(axis[answer["direction"]] == axis[target["direction"]])
    if target["action"] == "press":
        return int(answer["key"] == target["key"])
    return 1


ACTIONS: list[tuple[dict[str, Any], str]] = [
    *(({"action": "click", "point": point}, text) for _, point, text in RECORDED),
    ({"action": "scroll", "direction": "up"}, '{"action": "swipe", "coordinate": [5, 800], "coordinate2": [5, 200]}'),
    ({"action": "scroll", "direction": "up"}, '{"action_type": "scroll", "direction": "down"}'),
    ({"action": "scroll", "direction": "down"}, "SCROLL [UP]"),
    ({"action": "scroll", "direction": "left"}, '{"action_type": 9}'),
    ({"action": "type", "text": "two tickets"}, '{"action": "type", "text": "Two tickets"}'),
    ({"action": "type", "text": "three"}, "Action: type(content='three')"),
    ({"action": "press", "key": "back"}, '{"PRESS":"BACK"}'),
    ({"action": "press", "key": "home"}, "press_home()"),
    ({"action": "finish"}, '{"action": "terminate", "status": "success"}'),
    ({"action": "wait"}, "WAIT"),
]
TARGETS: list[dict[str, Any]] = [
    {"action": "click", "point": list(TARGET)},
    {"action": "click", "point": [512, 304], "box": [100, 290, 900, 318]},
    {"action": "click", "point": [512, 304], "box": [500, 290, 524, 420]},
    {"action": "scroll", "direction": "up"},
    {"action": "scroll", "direction": "right"},
    {"action": "type", "text": "two tickets"},
    {"action": "press", "key": "back"},
    {"action": "finish"},
    {"action": "wait"},
]


def why_not(answer: dict[str, Any], target: dict[str, Any]) -> str:
    """Return why the two rules must differ on a pair that AITW takes as a match; empty if they must not."""
    if target["action"] == "scroll" and answer["direction"] != target["direction"]:
        return "AITW compares the axis of a gesture only: up matches down"
    if target["action"] == "type" and answer["text"].lower() != target["text"]:
        return "AITW does not compare typed texts"
    if "box" in target and not in_box(answer["point"], target["box"]):
        near = math.dist(answer["point"], target["point"]) <= 140
        return "" if near else "AITW enlarges boxes to 2.4 times their size"
    return ""


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_steps_agree_with_android_in_the_wild_but_for_its_known_defects(target: dict[str, Any]) -> None:
    rows = scored(target, [text for _, text in ACTIONS], "action")
    reasons = set()
    for (answer, text), row in zip(ACTIONS, rows, strict=True):
        assert row["action"] == answer["action"], text
        theirs = aitw_match(answer, target)
        reason = why_not(answer, target) if theirs else ""
        reasons.add(reason)
        assert row["step_right_140"] == (0 if reason else theirs), (text, reason)
        assert row["type_right"] == int(answer["action"] == target["action"]), text
    # Of the two boxes, only the second has an answer that is inside it once it is enlarged, and far from the target.
    assert len(reasons - {""}) == (target["action"] in ("scroll", "type") or target.get("box") == [500, 290, 524, 420])


def reference_point(text: str) -> tuple[int, int]:
    """The reference's rule in other words: the digits around the first comma of the first closed block, boxes first."""
    blocks = text.split("```grounding")[1:]
    closed = [block.split("```")[0] for block in blocks if "```" in block]
    if not closed:
        return 0, 0
    four = re.search(r"\d+(?:\s*,\s*\d+){3}", closed[0])
    pair = four or re.search(r"\d+\s*,\s*\d+", closed[0])
    if not pair:
        return 0, 0
    x, y = pair[0].split(",")[:2]
    return int(x), int(y)


REFERENCE_DIFFERENCES = {
    "```grounding\n[311.5, 541.2]\n```": "only the digits around the comma",
    "```grounding\n[500, 290, 524, 318]\n```": "a box is its corner",
    "```grounding\n[-20, 304]\n```": "minus signs are lost",
    "[512, 304]": "without a block it is (0, 0)",
    "I cannot see it.": "an answer without a point is (0, 0)",
    "```grounding\n[512, 304]": "a block that does not end is (0, 0)",
}


def test_the_metric_of_the_reference_agrees_on_every_sample() -> None:
    texts = [*(text for *_, text in RECORDED), *NO_ANSWER, *REFERENCE_DIFFERENCES]
    rows = scored({"point": list(TARGET)}, texts, "grounding", "pigg_compatible")
    for text, row in zip(texts, rows, strict=True):
        distance = math.dist(reference_point(text), TARGET)
        assert row["pigg_distance"] == pytest.approx(distance), text
        assert row["pigg_hit"] == int(distance <= 140), text


def test_ours_and_that_of_the_reference_agree_on_its_own_answers_and_nowhere_else() -> None:
    own = [text for style, _, text in RECORDED if style == "reference"]
    for row in scored({"point": list(TARGET)}, own, "grounding", "pigg_compatible"):
        assert (row["pigg_distance"], row["pigg_hit"]) == (pytest.approx(row["distance"]), row["hit_140"])
    rows = scored({"point": list(TARGET)}, list(REFERENCE_DIFFERENCES), "grounding", "pigg_compatible")
    for (text, reason), row in zip(REFERENCE_DIFFERENCES.items(), rows, strict=True):
        assert row["pigg_distance"] != row["distance"], (text, reason)


def test_the_defect_of_the_reference_makes_hits_of_nothing() -> None:
    """A target within 140 of the corner: an answer without a point is a hit there, and a miss here."""
    turns = [{"role": "assistant", "content": [{"type": "text", "text": STYLES["reference"](30, 40)}]}]
    sample = {"id": "a", "user": "1", "episode": "a", "step": 0, "target": {"point": [30, 40]}, "messages": turns}
    metrics = measured(("grounding", "pigg_compatible"), [140])
    (row,) = score_samples("grounding", metrics, [sample], {"a": Answer("I cannot see it.")}, Path("user_1.jsonl"))
    assert (row["pigg_hit"], row["hit_140"]) == (1, 0)
