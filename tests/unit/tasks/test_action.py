"""Reading actions out of what models write, and measuring them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usertune.evaluation.answers import Answer
from usertune.evaluation.recipe import measured
from usertune.evaluation.score import score_samples, summarise
from usertune.tasks.action import METRICS, ActionTask, similarity, step_success, tapped
from usertune.tasks.actions.read import FORMS, REASONS, read_action
from usertune.tasks.points.examples import EXAMPLES, Example
from usertune.tasks.truth import Truth

TASK = ActionTask()
CLICK = Truth("click", point=(512, 304))
UP, DOWN = Truth("scroll", direction="up"), Truth("scroll", direction="down")
BACK = Truth("press", key="back")
STYLES: list[tuple[str, Truth, str]] = [
    # Qwen's mobile_use
    ('{"action": "click", "coordinate": [512, 304]}', CLICK, "action_key"),
    (
        '<tool_call>\n{"name": "mobile_use", "arguments": {"action": "long_press", '
        '"coordinate": [512, 304], "time": 2}}\n</tool_call>',
        replace(CLICK, action="long_press"),
        "action_key",
    ),
    (
        '<tool_call>\n{"name": "mobile_use", "arguments": {"action": "swipe", "coordinate": [512, 800], '
        '"coordinate2": [500, 304]}}\n</tool_call>',
        UP,
        "action_key",
    ),
    ('{"action": "system_button", "button": "Back"}', BACK, "action_key"),
    (
        '{"action": "type", "text": "say \\"hi\\", click(1, 2)"}',
        Truth("type", text='say "hi", click(1, 2)'),
        "action_key",
    ),
    ('{"action": "terminate", "status": "success"}', Truth("finish"), "action_key"),
    ('{"action": "terminate", "status": "failure"}', Truth("finish", key="impossible"), "action_key"),
    ('{"action": "answer", "text": "12 o\'clock"}', Truth("finish", text="12 o'clock"), "action_key"),
    ('{"action": "open", "text": "Maps"}', Truth("open_app", text="Maps"), "action_key"),
    ('{"action": "wait", "time": 2}', Truth("wait"), "action_key"),
    # FingerTip
    ("click(coordinates=(512, 304), content='scroll(direction=up)')", CLICK, "action_call"),
    ("long_click(coordinates=(512, 304), content='x')", replace(CLICK, action="long_press"), "action_call"),
    ("scroll(coordinates=(512, 304), direction='up')", UP, "action_call"),
    ("type(text='你好\uff0c世界')", Truth("type", text="你好\uff0c世界"), "action_call"),
    ("press_back()", BACK, "action_call"),
    ("press_recent()", Truth("press", key="recent"), "action_call"),
    ("finished()", Truth("finish"), "action_call"),
    ("wait()", Truth("wait"), "action_call"),
    # AndroidControl and its mirrors: scroll moves the view, so the finger moves the other way.
    ('{"action_type": "click", "x": 512, "y": 304}', CLICK, "action_key"),
    ('{"action_type": "scroll", "direction": "down"}', UP, "action_key"),
    ('{"action_type": "input_text", "text": "two"}', Truth("type", text="two"), "action_key"),
    ('{"action_type": "open_app", "app_name": "Maps"}', Truth("open_app", text="Maps"), "action_key"),
    ('{"action_type": "navigate_back"}', BACK, "action_key"),
    ('{"action_type": "status", "goal_status": "infeasible"}', Truth("finish", key="impossible"), "action_key"),
    ("CLICK [[512, 304]]", CLICK, "action_line"),
    ("LONG_PRESS [[512, 304]]", replace(CLICK, action="long_press"), "action_line"),
    # Android in the Wild as SeeClick writes it
    ('{"action_type": 4, "click_point": (512, 304)}', CLICK, "action_key"),
    ('{"action_type": 3, "typed_text": "two"}', Truth("type", text="two"), "action_key"),
    ('{"action_type": 0}', UP, "action_key"),
    ('{"action_type": 9}', Truth("scroll", direction="left"), "action_key"),
    ('{"action_type": 5}', BACK, "action_key"),
    ('{"action_type": 11}', Truth("finish", key="impossible"), "action_key"),
    (
        '"action_type": "DUAL_POINT", "touch_point": "[0.8, 0.5]", "lift_point": "[0.2, 0.5]", "typed_text": ""',
        UP,
        "action_key",
    ),
    ('"action_type": "PRESS_HOME"', Truth("press", key="home"), "action_key"),
    # OS-Atlas
    ("actions:\nCLICK <point>[[512,304]]</point>", CLICK, "action_line"),
    ("thoughts:\nI type it.\nactions:\nTYPE [two (2, 3)]", Truth("type", text="two (2, 3)"), "action_line"),
    ("actions:\nSCROLL [DOWN]", UP, "action_line"),
    ("actions:\nOPEN_APP [Maps]", Truth("open_app", text="Maps"), "action_line"),
    ("actions:\nPRESS_BACK", BACK, "action_line"),
    ("actions:\nCOMPLETE", Truth("finish"), "action_line"),
    # UI-TARS
    ("Thought: I see (2, 3).\nAction: click(start_box='(512,304)')", CLICK, "action_call"),
    ("Action: drag(start_box='(512,800)', end_box='(500,300)')", UP, "action_call"),
    ("Action: scroll(start_box='(512,304)', direction='down')", UP, "action_call"),
    ("Action: type(content='two')", Truth("type", text="two"), "action_call"),
    ("Action: hotkey(key='enter')", Truth("press", key="enter"), "action_call"),
    # AgentCPM
    ('{"thought":"tap (2, 3)","POINT":[512,304]}', CLICK, "point"),
    ('{"POINT":[512,304],"to":"up"}', UP, "action_key"),
    ('{"TYPE":"two"}', Truth("type", text="two"), "action_key"),
    ('{"PRESS":"BACK"}', BACK, "action_key"),
    ('{"STATUS":"finish"}', Truth("finish"), "action_key"),
    # AutoGLM, GLM-4.5V
    ('do(action="Tap", element=[512,304])', CLICK, "action_key"),
    ('do(action="Long Press", element=[512,304])', replace(CLICK, action="long_press"), "action_key"),
    ('do(action="Swipe", start=[512,800], end=[512,304])', UP, "action_key"),
    ('do(action="Launch", app="Maps")', Truth("open_app", text="Maps"), "action_key"),
    ('finish(message="done")', Truth("finish", text="done"), "action_call"),
    ("<|begin_of_box|>left_click(start_box='[512,304]')<|end_of_box|>", CLICK, "action_call"),
    # a call with an unnamed argument, and a point alone
    ('type("two")', Truth("type", text="two"), "action_call"),
    ("press_back", BACK, "action_line"),
    ("```grounding\n[512, 304]\n```", CLICK, "point"),
    ("<think>Scroll?</think>[512, 304]", CLICK, "point"),
]


@pytest.mark.parametrize(("text", "truth", "form"), STYLES, ids=lambda value: str(value)[:40])
def test_every_style_is_read(text: str, truth: Truth, form: str) -> None:
    assert TASK.read(text) == (truth, form)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I do not know.", "no_action"),
        ("", "no_action"),
        ('{"action": "fly"}', "no_action"),
        ('{"action": "type"}', "no_argument"),
        ('{"action": "swipe"}', "no_argument"),
        ('{"action": "open"}', "no_argument"),
        ('{"action": "system_button"}', "no_argument"),
        ('{"action": "click"}', "none"),
        ('{"action": "click", "coordinate": [0.52, 0.31]}', "fraction"),
        ('{"action": "click", "coordinate": [512, 30', "cut_off"),
        ('"action_type": "DUAL_POINT", "touch_point": "[0.5, 0.5]", "lift_point": "[0.5, 0.51]"', "fraction"),
        ('{"action": "click", "coordinate": [1, 2]}\n{"action": "wait"}', "disagree"),
        ("press_back()\npress_home()", "disagree"),
        ('<tool_call>{"action": "wait"}</tool_call><tool_call>{"action": "back"}</tool_call>', "disagree"),
        ("<think>press_back()", "unfinished_thinking"),
    ],
)
def test_doubt_is_unparsed_with_its_reason(text: str, reason: str) -> None:
    assert TASK.read(text) == (None, reason)
    assert reason in REASONS


def test_forms_and_reasons_are_explained() -> None:
    assert {form for _, _, form in STYLES} == FORMS.keys()
    assert not FORMS.keys() & REASONS.keys()


@pytest.mark.parametrize(
    "example", [one for one in EXAMPLES if one.form != "not_a_click"], ids=lambda one: one.text[:40]
)
def test_a_point_is_a_click_exactly_where_grounding_reads_it(example: Example) -> None:
    action, _ = read_action(example.text)
    assert (action.point if action else None) == example.point
    assert action is None or action.action == "click"


@given(st.text(max_size=300) | st.lists(st.sampled_from([text for text, _, _ in STYLES]), max_size=3).map("\n".join))
def test_any_text_is_read_or_refused_with_a_known_reason(text: str) -> None:
    for ended in (True, False):
        action, form = TASK.read(text, ended)
        assert form in (REASONS if action is None else FORMS)


@pytest.mark.parametrize(
    "piece",
    ['{"action": "', "a=", "a: b ", 'x="\\', "click(", "CLICK ", "[1, ", '"text": "a', "type('", "<tool_call>", "'"],
)
def test_long_answers_take_linear_time(piece: str) -> None:
    text = (piece * 30_000)[:30_000]
    started = time.process_time()
    TASK.read(text)
    assert time.process_time() - started < 6  # quadratic time would be minutes


@given(
    st.sampled_from(["click", "long_press", "type", "scroll", "press", "wait", "finish", "open_app"]),
    st.tuples(st.floats(0, 1000), st.floats(0, 1000)),
    st.text(min_size=1, max_size=60).filter(lambda text: text.strip() == text and text.isprintable()),
    st.sampled_from(["up", "down", "left", "right"]),
    st.sampled_from(["back", "home", "recent", "enter"]),
)
def test_what_the_task_writes_it_reads_again(
    action: str, point: tuple[float, float], text: str, direction: str, key: str
) -> None:
    x, y = (1 + round(value / 1000 * 998, 1) for value in point)
    known: dict[str, dict[str, Any]] = {
        "click": {"point": (x, y)},
        "long_press": {"point": (x, y)},
        "type": {"text": text},
        "open_app": {"text": text},
        "scroll": {"direction": direction},
        "press": {"key": key},
    }
    truth = Truth(action, **known.get(action, {}))
    found, form = TASK.read(TASK.answer(truth))
    assert (found, form) == (truth, "action_key")
    target = json.loads(json.dumps(TASK.target_from_truth(truth)))
    assert TASK.read_target(target) == truth
    assert TASK.target_from_answer(TASK.answer(truth)) == target


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (Truth("click"), "click lacks its point"),
        (Truth("type"), "type lacks a text"),
        (Truth("scroll", direction="north"), "scroll lacks a direction"),
        (Truth("press"), "press lacks a key"),
        (Truth("jump"), "'jump' is no action; the actions are click"),
    ],
)
def test_an_action_without_its_argument_is_refused(truth: Truth, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TASK.answer(truth)


@pytest.mark.parametrize(
    "target",
    [None, {}, {"action": "fly"}, {"action": "click"}, {"point": [1]}, {"point": [1, "x"]}, {"action": "type"}],
)
def test_a_malformed_target_is_refused(target: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        TASK.read_target(target)


def test_a_target_of_grounding_is_a_click_with_its_box() -> None:
    assert TASK.read_target({"point": [5, 6], "box": [1, 2, 9, 10]}) == Truth("click", point=(5, 6), box=(1, 2, 9, 10))


def test_a_tap_is_right_near_the_target_or_in_its_box() -> None:
    target = Truth("click", point=(500, 500), box=(0, 480, 1000, 520))
    at = Truth("click", point=(900, 500))
    assert tapped(at, target, 140) == 1
    assert tapped(at, replace(target, box=None), 140) == 0
    assert tapped(Truth("click", point=(500, 640)), target, 140) == 1
    assert tapped(Truth("click", point=(500, 640.1)), target, 140) == 0
    assert tapped(replace(at, action="long_press"), target, 140) == 0


@pytest.mark.parametrize(
    ("answer", "target", "right"),
    [
        (UP, UP, 1),
        (DOWN, UP, 0),
        (BACK, BACK, 1),
        (replace(BACK, key="home"), BACK, 0),
        (Truth("type", text=" Two  Tickets"), Truth("type", text="two tickets"), 1),
        (Truth("type", text="\uff12 tickets"), Truth("type", text="2 tickets"), 1),
        (Truth("type", text="two ticket"), Truth("type", text="two tickets"), 0),
        (Truth("open_app", text="maps"), Truth("open_app", text="Maps"), 1),
        (Truth("wait"), Truth("wait"), 1),
        (Truth("wait"), UP, 0),
        (Truth("finish", text="anything"), Truth("finish"), 1),
        (Truth("finish", key="impossible"), Truth("finish"), 0),
    ],
)
def test_a_step_is_right_in_kind_and_argument(answer: Truth, target: Truth, right: int) -> None:
    assert step_success(answer, target, 140) == right


def test_typed_text_is_as_similar_as_its_edit_distance_says() -> None:
    """kitten -> sitting takes 3 edits; the longer text has 7 letters."""
    assert similarity(Truth("type", text="Kitten"), Truth("type", text="sitting")) == pytest.approx(1 - 3 / 7)
    assert similarity(Truth("wait"), Truth("type", text="sitting")) == 0


def test_metrics_are_over_the_steps_that_they_apply_to_and_over_episodes() -> None:
    targets: list[dict[str, Any]] = [
        {"action": "click", "point": [500, 500]},
        {"action": "scroll", "direction": "up"},
        {"action": "type", "text": "sitting"},
        {"action": "finish"},
    ]
    answers = ["[500, 500]", "press_back()", "type('kitten')", "finished()"]
    episodes = ["a", "b", "b", "a"]
    samples = [
        {"id": str(step), "user": "1", "episode": episode, "step": step, "target": target, "messages": []}
        for step, (target, episode) in enumerate(zip(targets, episodes, strict=True))
    ]
    given = {str(step): Answer(text) for step, text in enumerate(answers)}
    metrics = measured(("action", "grounding"), [140])
    rows = score_samples("action", metrics, samples, given, __file__)  # type: ignore[arg-type]
    found = summarise(rows, metrics)
    assert [row["form"] for row in rows] == ["point", "action_call", "action_call", "action_call"]
    assert (found["step_success"], found["type_accuracy"]) == (0.5, 0.75)
    assert (found["tap_accuracy"], found["scroll_accuracy"]) == (1, 0)
    assert found["typed_similarity"] == pytest.approx(1 - 3 / 7)
    assert found["episode_success"] == 0.5
    # Of an action dataset, grounding measures the clicks alone.
    assert [row["hit_140"] for row in rows] == [1, None, None, None]
    assert found["click_accuracy"] == 1
    assert METRICS[0].name == "step_success"


def test_the_report_says_what_came_of_an_answer() -> None:
    row = {
        "parsed": 1,
        "form": "point",
        "action": "click",
        "target_action": "click",
        "step_right_140": 1,
        "x": 1,
        "y": 2,
    }
    assert TASK.outcome(row, 140) == "click for click: right"
    assert TASK.outcome({**row, "parsed": 0, "form": "no_action"}, 140) == "not parsed (no_action), wrong"
    marks = TASK.marks(row, CLICK, 140)
    assert marks is not None
    assert marks[:2] == ((512, 304), (1, 2))
    assert TASK.marks(row, UP, 140) is None
