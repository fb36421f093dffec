"""The forms in which models write a point.

`read` tries them in the order of `FORMS`. The first four narrow an answer down to the part that states the result.
Within that part, or in the complete answer if there is none, `read` looks for the forms that name the point (`call`,
`tag`, `key`, `percent`) together, then for a line that holds nothing else, then for words that introduce a point. All
candidates of the first group that has any must agree; otherwise the answer is unparsed. It is also unparsed if a form
is recognised but cannot be read. The reasons are in `REASONS`.

Coordinates are in the 0-1000 frame. Percentages are of the screen; they are multiplied by ten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from usertune.tasks.points.actions import another_action, in_calls, read_tags
from usertune.tasks.points.keys import QUOTED_VALUE, in_keys, in_percentages
from usertune.tasks.points.prose import in_lines, in_words
from usertune.tasks.points.text import Finding, groups_of, joined, numbers_only, plain, without_quotations
from usertune.tasks.points.values import order_of
from usertune.tasks.truth import Point

FORMS = {
    "grounding_block": "A fenced block called `grounding`; nothing else counts.",
    "answer_tag": "`<answer>…</answer>`, `<|begin_of_box|>…<|end_of_box|>` or `\\boxed{…}`; nothing else counts.",
    "tool_call": "`<tool_call>…</tool_call>`; nothing else counts.",
    "answer_line": "The text after `Action:`, `Answer:`, `Grounding:` or `Result:` at the beginning of a line.",
    "call": "A call of a click, such as `click(…)`, `tap(…)` or `pyautogui.click(…)`.",
    "tag": "`<point>…</point>`, `<box>…</box>`, `<|box_start|>…<|box_end|>`, `<|det|>…<|/det|>` and the like; "
    "in `<point x= y=>` the numbers are percentages, in `<points coords=>` an index precedes them.",
    "key": "Keys that name a coordinate: `x` and `y`, edges, a corner with width and height, two corners, or a "
    "list called `point_2d`, `bbox_2d`, `coordinate`, `position`, … In `box_2d` y comes before x.",
    "percent": "Percentages from the left and from the top, in words.",
    "line": "A line that holds the numbers and nothing else (bare numbers: the first or the last line).",
    "words": "A bracket right after words that introduce a point (`at`, `tap`, `coordinates:`, …), that begins the "
    "answer, or that ends it after a colon.",
}
REASONS = {
    "none": "No point is named.",
    "unfinished_thinking": "The answer ends while the model is still thinking.",
    "not_a_click": "An action other than a click: a scroll, swipe, drag, typed text, …",
    "cut_off": "The text ends within the numbers, or with a number at the maximum length of an answer.",
    "disagree": "Several different points, and no form says which is the answer.",
    "unclear": "Numbers that could be a point, but nothing says so.",
    "count": "A list with neither two nor four numbers.",
    "box_order": "A box with its right edge left of its left edge, or its bottom above its top.",
    "order_unclear": "It is unclear which number is x and which is y.",
    "fraction": "Fractions between 0 and 1 instead of coordinates from 0 to 1000.",
    "no_point": "[-1, -1], which means that there is no such element.",
    "thousands": "Numbers with thousands separators, or with leading zeros.",
    "too_large": "A number beyond 100,000: a model that repeats a digit.",
    "incomplete": "x without y, one corner of two, or the like.",
}


class Reading(NamedTuple):
    """The result of reading an answer: a point in the 0-1000 frame and its form, or None and the reason."""

    point: Point | None
    form: str


def read(text: str) -> Reading:
    """Return the point that an answer names and its form, or None and the reason.

    Args:
        text: the complete answer.
    """
    rest = after_thinking(text)
    if rest is None:
        return Reading(None, "unfinished_thinking")
    return _read_part(rest, 0)


_THINKING = re.compile(
    r"[<\u25c1](?P<close>/?)(?:seed:)?(?:think|thinking|thought|thoughts|reasoning)[>\u25b7]"
    r"|<\|(?:begin|(?P<end>end))_of_thought\|>|\[(?P<slash>/?)THINK\]",
    re.IGNORECASE,
)
_CHANNEL, _FINAL = "<|channel|>", "<|channel|>final<|message|>"


def after_thinking(text: str) -> str | None:
    """Return the text after the last end of thinking; None if the thinking does not end."""
    if _CHANNEL in text:
        _, found, text = text.rpartition(_FINAL)
        if not found:
            return None
    tags = list(_THINKING.finditer(text))
    if not tags:
        return text
    last = tags[-1]
    return text[last.end() :] if last["close"] or last["end"] or last["slash"] else None


def _read_part(text: str, level: int) -> Reading:
    """Read a part of an answer; if one of ``CONTAINERS[level:]`` occurs in it, read only that."""
    for number, (name, parts_of) in enumerate(CONTAINERS[level:], start=level):
        readings = [
            _read_part(part, number + 1) if closed or not ends_in_number(part) else Reading(None, "cut_off")
            for part, closed in parts_of(text)
        ]
        if readings:
            found = _agreed(reading.point or reading.form for reading in readings)
            return Reading(None, found) if isinstance(found, str) else Reading(found, name)
    return _read_body(_FENCE.sub("\n", _without_referring(text)))


def ends_in_number(text: str) -> bool:
    """Whether a text may end within a number."""
    return text[-1:].isdigit() or text[-1:] in tuple(".,-+")


# A word after the backticks is a label if it ends the line; grounding and referring always are.
_FENCE = re.compile(
    r"```(?>(?:[ \t]*+(?P<label>(?:grounding|referring)\b|[A-Za-z_]++(?=[ \t]*+(?:\n|\Z))))?)", re.IGNORECASE
)
_REFERRING_LINE = re.compile(r"^[ \t*#]*+referring[ \t*]*+[:\uff1a][^\n]*+", re.MULTILINE | re.IGNORECASE)


def _blocks(text: str) -> Iterator[tuple[str | None, str, bool]]:
    """Yield the fenced blocks and what lies between them: label (None: between), content, whether it is closed."""
    label: str | None = None
    start = 0
    for fence in _FENCE.finditer(text):
        yield label, text[start : fence.start()], True
        # A fence with a label opens a block even if the previous block was not closed.
        label = (fence["label"] or "").lower() or (None if label is not None else "")
        start = fence.end()
    yield label, text[start:], label is None


def _grounding_blocks(text: str) -> list[tuple[str, bool]]:
    return [(content, closed) for label, content, closed in _blocks(text) if label == "grounding"]


def _without_referring(text: str) -> str:
    """Return ``text`` without its referring blocks and lines, which quote other text."""
    if "```" in text:
        text = "\n".join(content for label, content, _ in _blocks(text) if label != "referring")
    return _REFERRING_LINE.sub("", text)


_ANSWER_TAGS = [
    (re.compile(r"<answer>", re.IGNORECASE), re.compile(r"</answer>", re.IGNORECASE)),
    (re.compile(r"<\|begin_of_box\|>"), re.compile(r"<\|end_of_box\|>")),
    (re.compile(r"\\boxed(?=\{)"), re.compile(r"\}")),
]
_TOOL_TAGS = [(re.compile(r"<(?:tool_call|function_call)>"), re.compile(r"</(?:tool_call|function_call)>"))]


def _tagged(text: str, tags: Sequence[tuple[re.Pattern[str], re.Pattern[str]]]) -> list[tuple[str, bool]]:
    """Return every text between the first pair of tags that occurs, and whether the tag is closed."""
    for opening, closing in tags:
        parts = []
        start = opening.search(text)
        while start:
            end = closing.search(text, start.end())
            parts.append((text[start.end() : end.start() + (end[0] == "}")] if end else text[start.end() :], bool(end)))
            start = opening.search(text, end.end()) if end else None
        if parts:
            return parts
    return []


_ANSWER_LINE = re.compile(
    r"^[ \t*#>-]*+(?:final[ ]answer|answer|actions?|grounding|result|\u7b54\u6848|\u52a8\u4f5c)"
    r"[ \t*]*+[:\uff1a][ \t*]*+",
    re.MULTILINE | re.IGNORECASE,
)


def _answer_lines(text: str) -> list[tuple[str, bool]]:
    first = _ANSWER_LINE.search(text)
    # All text after it, so that a second answer counts too.
    return [(_ANSWER_LINE.sub("\n", text[first.end() :]), True)] if first else []


CONTAINERS = (
    ("grounding_block", _grounding_blocks),
    ("answer_tag", lambda text: _tagged(text, _ANSWER_TAGS)),
    ("tool_call", lambda text: _tagged(text, _TOOL_TAGS)),
    ("answer_line", _answer_lines),
)


def _read_body(text: str) -> Reading:
    """Read a text without containers."""
    text = _normal(text)
    if another_action(text):
        return Reading(None, "not_a_click")
    order = order_of(text)
    tags, text = read_tags(text, order)
    groups, cut = groups_of(text)
    if cut:
        return Reading(None, "cut_off")
    pairs = joined(text, groups)
    named = [*in_calls(text, pairs, order), *tags, *in_keys(text, pairs, order), *in_percentages(text)]
    for found in (named, in_lines(text, groups, order), in_words(text, pairs, order)):
        if candidates := list(found):
            agreed = _agreed(finding for _, finding in candidates)
            return Reading(None, agreed) if isinstance(agreed, str) else Reading(agreed, candidates[0][0])
    return Reading(None, "unclear" if any(len(row) in (2, 4) for group in groups for row in group.rows) else "none")


def _agreed(findings: Iterable[Finding]) -> Finding:
    """Return the point that all findings name, or the reason why there is none."""
    distinct = list(dict.fromkeys(findings))
    reasons = [finding for finding in distinct if isinstance(finding, str)]
    return reasons[0] if reasons else distinct[0] if len(distinct) == 1 else "disagree"


_ARGUMENTS = re.compile(
    r'"(?:arguments|args|parameters|input)"\s*+:\s*+(?P<text>"(?>(?:[^"\\\n]|\\.)*)(?>(?P<closed>")?))', re.IGNORECASE
)
# Arguments of tool calls in the notations of several chat templates, as "key: value".
_NOTATIONS = (
    (re.compile(r"<parameter(?:=|[ ]name=)[\"']?+(\w{1,40})[\"']?+>"), r" \1: "),
    (re.compile(r"<arg_key>[ ]?+(\w{1,40})[ ]?+</arg_key>\s{0,9}+<arg_value>"), r" \1: "),
    (re.compile(r"<function=(\w{1,40})>|functions\.(\w{1,40}):\d{1,9}"), r" function: \1\2, "),
    (re.compile(r"<(action|action_type|action_name|function|tool_name|name|type)>"), r" \1: "),
    (re.compile(r"<([xy])>(?=\s{0,9}[-+.\d])", re.IGNORECASE), r" \1: "),
    (re.compile(r"</(?:parameter|arg_value|[xy]|action\w{0,5}|function|tool_name|name|type)>", re.IGNORECASE), "\n"),
    (re.compile(r"<\|(?:im_end|im_start|endoftext|eot_id|end)\|>|</s>"), " "),
    (re.compile(r"(?<=coords=)[\"']([\d\s.,;]{1,300}+)[\"']"), r"[\1]"),
)


def _normal(text: str) -> str:
    """Return ``text`` in plain characters, with one notation of arguments, and without quotations."""
    text = one_notation(plain(text))
    bare = text.strip()
    if len(bare) > 2 and bare[0] == bare[-1] and bare[0] in "\"'" and bare.count(bare[0]) == 2:
        text = bare[1:-1]
    return without_quotations(QUOTED_VALUE.sub(_unquoted, text))


def one_notation(text: str) -> str:
    """Return ``text`` with the arguments of tool calls in one notation, as ``key: value``."""
    text = _ARGUMENTS.sub(_decoded, text)
    for pattern, replacement in _NOTATIONS:
        text = pattern.sub(replacement, text)
    return text


def _decoded(match: re.Match[str]) -> str:
    """Return arguments decoded from JSON in a JSON string."""
    try:
        inner = json.loads(match["text"]) if match["closed"] else None
    except ValueError:
        inner = None
    return match[0] if inner is None else f"arguments: {inner}"


def _unquoted(match: re.Match[str]) -> str:
    value = re.sub(r"<[^<>]{0,40}>", " ", match["value"]).strip()
    if not numbers_only(value):
        return match[0]
    return match["key"] + (value if value[0] in "[({" else f"[{value}]")
