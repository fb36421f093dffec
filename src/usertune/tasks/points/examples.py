"""Answers as models write them, and how `usertune.tasks.points.forms` reads each.

The page docs/answers.md, the tests and the fuzzing share this table. Unless its text says something else, an example
is about a box from (500, 290) to (524, 318) with the centre (512, 304).
"""

from __future__ import annotations

from dataclasses import dataclass

from usertune.tasks.truth import Point


@dataclass(frozen=True)
class Example:
    """An answer, the models that write this style, and the form (or reason) and point that it is read as."""

    style: str
    text: str
    form: str
    point: Point | None = None


HERE = (512.0, 304.0)


def _examples(style: str, *answers: tuple[str, str] | tuple[str, str, Point | None]) -> list[Example]:
    """Return examples of one style: text, form, and point (by default `HERE`; None for a reason)."""
    return [Example(style, text, form, *(rest or (HERE,))) for text, form, *rest in answers]


EXAMPLES = (
    *_examples(
        "usertune",
        ("```referring\nicon4 (1, 2)\n```\n```grounding\n[311.5, 541.2]\n```", "grounding_block", (311.5, 541.2)),
        ("```grounding\n[512, 304]", "grounding_block"),
        ("```referring\n[1, 2]\n```grounding\n[3, 4]", "grounding_block", (3, 4)),
        ("(9, 9)\n```grounding\n512 304\n```", "grounding_block"),
        ("```grounding\n[500, 290]\n[524, 318]\n```", "grounding_block"),
        ("```grounding\n[1, 2]\n```\n```grounding\n[3, 4]\n```", "disagree", None),
        ("[1, 2]\n```grounding\nnothing\n```", "none", None),
        ("```grounding\n512, 30", "cut_off", None),
        ("Referring: tab (2, 3)\nGrounding: [512, 304]", "answer_line"),
        ("Referring: tab (2, 3)", "none", None),
        ('{"referring": "tab (2, 3)", "grounding": [512, 304]}', "key"),
        ("```referring\nthe tab at [2, 3]\n```", "none", None),
        ("[512, 304]", "line"),
        ("512, 304", "line"),
        ("512 304.\r\n", "line"),
        ("[1500, -20]", "line", (1500, -20)),
        ("[512, 30", "cut_off", None),
        ("[512, 304, 7]", "count", None),
        ("[99999999, 304]", "too_large", None),
        ("I cannot see it.", "none", None),
    ),
    *_examples(
        "Qwen-VL, Qwen2-VL",
        ("<|object_ref_start|>mail<|object_ref_end|><|box_start|>(500,290),(524,318)<|box_end|>", "tag"),
        ("<|box_start|>(512,304)<|box_end|>", "tag"),
        ("<ref>tab (2, 3)</ref><box>(500,290),(524,318)</box>", "tag"),
        ("(500,290),(524,318)", "line"),
        ("<|box_start|>(500,290),(524,31", "cut_off", None),
    ),
    *_examples(
        "Qwen2.5-VL, Qwen3-VL",
        ('```json\n[\n\t{"bbox_2d": [500, 290, 524, 318], "label": "mail (2, 3)"}\n]\n```', "key"),
        ('```json\n[\n  {"point_2d": [512, 304], "label": "mail"}\n]\n```', "key"),
        ('{"point_2d": ["512", "304"], "label": "mail"}', "key"),
        ('{"bbox_2d": [[500, 290], [524, 318]]}', "key"),
        ('[{"bbox_2d": [500, 290, 524, 318]}, {"bbox_2d": [1, 2, 3, 4]}]', "disagree", None),
        ('{"bbox_2d": [500, 290, 24, 28]}', "box_order", None),
        ('{"bbox_2d": [500, 290, 524, 31', "cut_off", None),
        (
            '<tool_call>\n{"name": "computer_use", "arguments": {"action": "left_click", "coordinate": [512, 304]}}\n'
            "</tool_call>",
            "tool_call",
        ),
        (
            'I tap the tab at (2, 3).\n<tool_call>\n{"name": "mobile_use", "arguments": {"action": "click", '
            '"coordinate": [512, 304]}}\n</tool_call>',
            "tool_call",
        ),
        (
            '<tool_call>\n{"name": "mobile_use", "arguments": {"action": "swipe", "coordinate": [512, 800], '
            '"coordinate2": [512, 304]}}\n</tool_call>',
            "not_a_click",
            None,
        ),
        (
            "<tool_call>\n<function=computer_use>\n<parameter=action>\nleft_click\n</parameter>\n"
            "<parameter=coordinate>\n[512, 304]\n</parameter>\n</function>\n</tool_call>",
            "tool_call",
        ),
        (
            "<tool_call>\n<function=computer_use>\n<parameter=action>\nscroll\n</parameter>\n"
            "<parameter=coordinate>\n[512, 304]\n</parameter>\n</function>\n</tool_call>",
            "not_a_click",
            None,
        ),
        ("<think>The tab is at (2, 3), the icon at (510, 300).</think>\n[512, 304]", "line"),
        ("The tab is at (2, 3).</think>\n\n(512, 304)", "line"),
        ("<think>The icon may be at [512, 304]. But", "unfinished_thinking", None),
    ),
    *_examples(
        "UI-TARS",
        ("Thought: The tab (2, 3) is not it.\nAction: click(start_box='(512,304)')", "answer_line"),
        ("Action: click(start_box='<|box_start|>(512,304)<|box_end|>')", "answer_line"),
        ("Thought: I see it.\nAction: click(point='<point>512 304</point>')", "answer_line"),
        ("click(start_box='[500, 290, 524, 318]')", "key"),
        ("left_double(start_box='(512,304)')", "key"),
        ("<point>512 304</point>", "tag"),
        ("<bbox>500 290 524 318</bbox>", "tag"),
        ("<point>512 30", "cut_off", None),
        ("Action: scroll(start_box='(512,304)', direction='down')", "not_a_click", None),
        ("Action: drag(start_box='(100,200)', end_box='(300,400)')", "not_a_click", None),
        ("Action: type(content='(512, 304)')", "not_a_click", None),
        ("Action: wait()", "not_a_click", None),
    ),
    *_examples(
        "OS-Atlas",
        ("actions:\nCLICK <point>[[512,304]]</point>", "answer_line"),
        ("<point>[[512,304]]</point>", "tag"),
        ("thoughts:\nTap (2, 3).\nactions:\nCLICK <point>[[512,304]]</point>", "answer_line"),
        ("actions:\nSCROLL [UP]", "not_a_click", None),
        ("actions:\nTYPE [room (2, 3)]", "not_a_click", None),
    ),
    *_examples(
        "CogVLM, CogAgent",
        ("Grounded Operation: CLICK(box=[[500,290,524,318]], element_info='tab (2, 3)')", "key"),
        ("CLICK(box=[[090,112,150,152]], element_type='icon')", "key", (120, 132)),
        ("mail [[500,290,524,318]]", "unclear", None),
    ),
    *_examples(
        "InternVL",
        ("<ref>mail</ref><box>[[500, 290, 524, 318]]</box>", "tag"),
        ("<box>[[500, 290, 524, 318], [10, 20, 30, 40]]</box>", "disagree", None),
        ("[[500, 290, 524, 318]]", "line"),
    ),
    *_examples(
        "MiniCPM, AgentCPM",
        ("<ref>mail</ref><box>500 290 524 318</box>", "tag"),
        ("500 290 524 318", "line"),
        ('{"thought":"tap (2, 3)","POINT":[512,304]}', "key"),
        ('{"POINT":[512,304],"to":"up"}', "not_a_click", None),
    ),
    *_examples(
        "DeepSeek-VL2",
        ("<|ref|>mail<|/ref|><|det|>[[500, 290, 524, 318]]<|/det|>", "tag"),
        ("<|det|>[[500, 290, 524, 318]]", "cut_off", None),
    ),
    *_examples(
        "GLM-4.5V",
        ("The tab is at (2, 3), the icon is here: <|begin_of_box|>[500, 290, 524, 318]<|end_of_box|>.", "answer_tag"),
        ("<think>Maybe (2, 3).</think><|begin_of_box|>[[512, 304]]<|end_of_box|>", "answer_tag"),
        ("<|begin_of_box|>left_click(start_box='[512,304]', element_info='')<|end_of_box|>", "answer_tag"),
        (
            "<tool_call>click\n<arg_key>coordinate</arg_key>\n<arg_value>[512, 304]</arg_value>\n</tool_call>",
            "tool_call",
        ),
        ('do(action="Tap", element=[512,304])', "key"),
        ('do(action="Swipe", start=[512,800], end=[512,304])', "not_a_click", None),
    ),
    *_examples(
        "Molmo",
        ('<point x="51.2" y="30.4" alt="mail">mail (2, 3)</point>', "tag"),
        ('<point x="512" y="304" alt="mail">mail</point>', "unclear", None),
        ('<points x1="51.2" y1="30.4" x2="10.0" y2="20.0" alt="icons">icons</points>', "disagree", None),
        ('<points coords="1 1 512 304">mail</points>', "tag"),
    ),
    *_examples(
        "ShowUI, SeeClick, Aguvis",
        ("[0.52, 0.31]", "fraction", None),
        ("(0.52,0.31)", "fraction", None),
        ("{'action': 'CLICK', 'value': None, 'position': [0.52, 0.31]}", "fraction", None),
        ("pyautogui.click(x=0.512, y=0.304)", "fraction", None),
        ("pyautogui.click(x=512, y=304)", "key"),
        ("import pyautogui\npyautogui.click(512, 304)", "call"),
        ("pyautogui.click(x=1523, y=801)", "key", (1523, 801)),
        ("pyautogui.moveTo(512, 304)", "not_a_click", None),
        ("pyautogui.scroll(-5)", "not_a_click", None),
        ("[0.50, 0.29, 0.524, 0.318]", "fraction", None),
    ),
    *_examples(
        "Gemini",
        ('```json\n[{"box_2d": [290, 500, 318, 524], "label": "mail"}]\n```', "key"),
        ('[{"point": [304, 512], "label": "mail"}]', "order_unclear", None),
        ("[ymin, xmin, ymax, xmax] = [290, 500, 318, 524]", "words"),
        ("The point in (y, x) is (304, 512).", "words"),
        ('{"name": "click_at", "args": {"y": 304, "x": 512}}', "key"),
    ),
    *_examples(
        "GPT, Claude, Llama, Kimi: structured",
        ('{"x": 512, "y": 304}', "key"),
        ('{"y": 304, "x": 512}', "key"),
        ('{"x": 500, "y": 290, "width": 24, "height": 28}', "key"),
        ('{"x": 512, "y": 304, "width": 1080, "height": 2340}', "unclear", None),
        ('{"position": {"x": 500, "y": 290}, "size": {"width": 24, "height": 28}}', "unclear", None),
        ('{"left": 500, "top": 290, "right": 524, "bottom": 318}', "key"),
        ("x1=500, y1=290, x2=524, y2=318", "key"),
        ('{"top_left": [500, 290], "bottom_right": [524, 318]}', "key"),
        ('{"top_left": [500, 290]}', "incomplete", None),
        ('{"center": {"x": 512, "y": 304}}', "key"),
        ('{"image_size": [1080, 2340], "position": [512, 304]}', "key"),
        ('{"label": "(1, 2)", "coordinates": "512, 304"}', "key"),
        ('{"point": [512, 304]}', "key"),
        ('{"type": "click", "x": 512, "y": 304, "button": "left"}', "key"),
        ('{"type": "scroll", "x": 512, "y": 304, "scroll_y": 100}', "not_a_click", None),
        ('{"action": "left_click", "coordinate": [512, 304]}', "key"),
        ('{"function": {"name": "click", "arguments": "{\\"x\\": 512, \\"y\\": 304}"}}', "key"),
        ('{"x": 512, "y": 30', "cut_off", None),
        ('{"x": 512}', "incomplete", None),
        (
            '<|tool_call_begin|>functions.click:0<|tool_call_argument_begin|>{"x": 512, "y": 304}<|tool_call_end|>',
            "key",
        ),
        (
            '<|tool_call_begin|>functions.scroll:0<|tool_call_argument_begin|>{"x": 512, "y": 304}<|tool_call_end|>',
            "not_a_click",
            None,
        ),
        ("<action>swipe</action><coordinate>(512, 304)</coordinate>", "not_a_click", None),
        ("<answer>(512, 304)</answer>", "answer_tag"),
        ("The answer is \\boxed{(512, 304)}.", "answer_tag"),
        ("X: 512\nY: 304", "key"),
        ("**X:** 512, **Y:** 304", "key"),
        ("x = 51.2%, y = 30.4%", "key"),
        ("51.2%, 30.4%", "line"),
        ("30.4% from the top and 51.2% from the left", "percent"),
        ("[-1, -1]", "no_point", None),
        ("(1,080, 2,340)", "thousands", None),
        ("1,024", "thousands", None),
    ),
    *_examples(
        "GPT, Claude, Llama, Kimi: prose",
        ("The mail icon is at (512, 304).", "words"),
        ("The coordinates of the mail icon are [512, 304].", "words"),
        ("Tap (512, 304) to open it.", "words"),
        ("Mail icon: [512, 304]", "words"),
        ("Time: [12, 30]", "unclear", None),
        ("The icon is at (553, 711) px.", "unclear", None),
        ("(512, 304) is the centre of the mail icon.", "words"),
        ("(500, 290) to (524, 318)", "line"),
        ("(500, 290)\n(524, 318)", "line"),
        ("Top-left: (500, 290), bottom-right: (524, 318)", "key"),
        ("The box (x, y, width, height) is [500, 290, 24, 28].", "words"),
        ("Image size: [1080, 2340]\n[512, 304]", "line"),
        ("Image size: [1080, 2340]", "unclear", None),
        ("I see the tabs (2, 3) first.\n\n[512, 304]", "line"),
        ("The corners are (500, 290)\n(524, 318)", "unclear", None),
        ("Not the tab at (2, 3), but the icon at (512, 304).", "unclear", None),
        ("The tab (2, 3) is far from it.\nThe mail icon is at (512, 304).", "disagree", None),
        ('Tap "tab (2, 3)".', "none", None),
        ("The clock shows 12:30, 14:45.", "none", None),
        ("12:30", "none", None),
        ("On 2026-11-27, at 12:30", "none", None),
        ("It costs 1,024, or 2,048 for two.", "none", None),
        ("Scroll down at (512, 304).", "not_a_click", None),
        ("Swipe from (512, 800) to (512, 304).", "not_a_click", None),
    ),
    *_examples(
        "Chinese prose",
        ("坐标：（512，304）", "key"),
        ("点击【512，304】", "words"),
        ("X：512，Y：304", "key"),
        ("横坐标为512，纵坐标为304", "key"),
        ("左上角：(500, 290)，右下角：(524, 318)", "key"),
        ("邮件图标的位置是（512，304）。", "key"),
    ),
    *_examples(
        "FingerTip, AndroidControl, AITW",
        ("click(coordinates=(336, 867), content='mail (2, 3)')", "key", (336, 867)),
        ("scroll(coordinates=(512, 304), direction='down')", "not_a_click", None),
        ('{"action_type": "click", "x": 512, "y": 304}', "key"),
        ("CLICK [[512, 304]]", "words"),
        ('"action_type": "DUAL_POINT", "touch_point": "[0.52, 0.31]", "lift_point": "[0.52, 0.31]"', "none", None),
        ("press_back()", "not_a_click", None),
    ),
    *_examples(
        "Ferret-UI, Kosmos-2, Florence-2",
        ("The mail icon [500, 290, 524, 318] opens the inbox.", "unclear", None),
        ("<phrase>mail</phrase><object><patch_index_0044><patch_index_0863></object>", "none", None),
        ("mail<loc_500><loc_290><loc_524><loc_318>", "none", None),
    ),
)
"""All examples, style by style."""
