"""Read the action out of an answer.

The parts of an answer that state the result are those of `usertune.tasks.points.forms`, which reads the points too.
Within such a part the action is named by a key, by a call, or by a word that begins a line; a point alone is a click.
Several different actions, and an action without its argument, are unparsed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from usertune.tasks.actions.verbs import CODES, GIVING_UP, IMPOSSIBLE, OPPOSITE, Verb, key_name, verb_of
from usertune.tasks.points import forms as points
from usertune.tasks.points.actions import calls_of
from usertune.tasks.truth import CLICK, DIRECTIONS, FINISH, LONG_PRESS, OPEN_APP, PRESS, SCROLL, TYPE, Point, Truth

FORMS = {
    "action_key": "A key such as `action`, `action_type` or `name` that names the action; others have its arguments.",
    "action_call": "A call, such as `click(…)`, `type(text='…')` or `press_back()`.",
    "action_line": "A word at the beginning of a line, such as `CLICK …`, `TYPE […]`, `SCROLL [UP]` or `PRESS_BACK`.",
    "point": "A point in a form of the task grounding, and no action: a click.",
}
REASONS = {
    **{name: text for name, text in points.REASONS.items() if name != "not_a_click"},
    "no_action": "No action is named, or one that is not known.",
    "no_argument": "An action without what it needs: no text, key, app or direction.",
    "disagree": "Several different actions or points.",
}

_STRING = r'"(?>(?:[^"\\]|\\.)*)"|\'(?>(?:[^\'\\]|\\.)*)\''
_FIELD = re.compile(
    rf"(?<![A-Za-z0-9_])[\"']?+(?P<key>[A-Za-z][A-Za-z0-9_]{{0,30}}+)[\"']?+\s*+[:=]\s*+"
    rf"(?P<value>{_STRING}|[\[(][^\[\](){{}}]{{0,100}}+[\])]|\d[\w.]*+|[A-Za-z\u2e80-\u9fff][^\n,;(){{}}\[\]<>\"']*+)"
)
_ACTION_KEYS = ("action", "action_type", "action_name", "operation", "function", "act")
_NAME_KEYS = ("name", "type", "tool_name")
_LINE = re.compile(r"^[ \t*#>`-]*+(?P<verb>[A-Za-z_]++)[ \t]*+(?P<rest>[^\n]*+)$", re.MULTILINE)
_BRACKET = re.compile(r"\[(?P<text>[^\[\]\n]*+)\]|\((?P<round>[^()\n]*+)\)")
_POSITIONAL = re.compile(rf"\(\s*+(?P<value>{_STRING})")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_TEXTS = ("text", "content", "typed_text", "input_text", "value", "TYPE")
_APPS = ("app_name", "app", "text", "content", "value")
_FINAL = ("text", "content", "message", "answer")
# Two points of a gesture. Android in the Wild writes y first in the last pair.
_GESTURES = (
    ("coordinate", "coordinate2"), ("start_coordinate", "coordinate"), ("start", "end"), ("start_box", "end_box"),
    ("start_point", "end_point"), ("touch_point", "lift_point"),
)  # fmt: skip
# A gesture that moves at most this share of the screen is a tap (Android in the Wild, action matching).
TAP = 0.04

Fields = dict[str, list[str]]


def read_action(text: str) -> tuple[Truth | None, str]:
    """Return the action that an answer names and its form, or None and the reason.

    Coordinates are in the frame of the answer; fractions of 1 are refused, see `usertune.tasks.points.forms`.
    """
    rest = points.after_thinking(text)
    return (None, "unfinished_thinking") if rest is None else _read_part(rest, 0)


def _read_part(text: str, level: int) -> tuple[Truth | None, str]:
    for number, (_, parts_of) in enumerate(points.CONTAINERS[level:], start=level):
        found = [
            _read_part(part, number + 1) if closed or not points.ends_in_number(part) else (None, "cut_off")
            for part, closed in parts_of(text)
        ]
        if found:
            return found[0] if len(set(found)) == 1 else (None, "disagree")
    return _read_body(text)


def _read_body(text: str) -> tuple[Truth | None, str]:
    plain = points.one_notation(text)
    fields = _fields(plain)
    for form, found in (
        ("action_key", _by_key(fields)),
        ("action_call", _by_call(plain)),
        ("action_line", _by_line(plain)),
    ):
        if len(set(found)) > 1:
            return None, "disagree"
        if found:
            (verb, argument) = found[0]
            action = _complete(verb, argument, fields, text)
            return (None, action) if isinstance(action, str) else (action, form)
    reading = points.read(text)
    if reading.point is not None:
        return Truth(CLICK, point=reading.point), "point"
    return None, "no_action" if reading.form in ("none", "not_a_click") else reading.form


def _fields(text: str) -> Fields:
    """Return the values of all keys of a text, as texts without quotes, in their order."""
    found: Fields = {}
    for match in _FIELD.finditer(text):
        found.setdefault(match["key"], []).append(_unquoted(match["value"]))
    return found


def _unquoted(value: str) -> str:
    if value[0] not in "\"'":
        return value.strip()
    inner = value[1:-1]
    try:
        # Escapes are those of JSON, also between single quotes.
        return str(
            json.loads('"' + (inner if value[0] == '"' else inner.replace("\\'", "'").replace('"', '\\"')) + '"')
        )
    except ValueError:
        return inner


def _by_key(fields: Fields) -> list[tuple[Verb, str]]:
    """Return the actions that keys name."""
    for keys in (_ACTION_KEYS, _NAME_KEYS):
        values = [value for key in keys for value in fields.get(key, [])]
        if found := [verb for value in values if (verb := verb_of(value, code=value in CODES))]:
            return [(verb, "") for verb in found]
    # AgentCPM names the argument alone.
    for key, verb in (("to", Verb(SCROLL)), ("TYPE", Verb(TYPE)), ("PRESS", Verb(PRESS)), ("STATUS", Verb(FINISH))):
        if key in fields and (key != "to" or fields[key][0].lower() in DIRECTIONS):
            return [(verb, "")]
    return []


def _by_call(text: str) -> list[tuple[Verb, str]]:
    found = []
    for name, offset in calls_of(text):
        if verb := verb_of(name):
            argument = _POSITIONAL.match(text, offset)
            found.append((verb, _unquoted(argument["value"]) if argument else ""))
    return found


def _by_line(text: str) -> list[tuple[Verb, str]]:
    """Return the actions that begin a line: in capitals, or alone on it."""
    found = []
    for match in _LINE.finditer(text):
        verb = verb_of(match["verb"])
        if verb and (match["verb"].isupper() or not match["rest"].strip(" .`*()")):
            bracket = _BRACKET.search(match["rest"]) if verb.action not in (CLICK, LONG_PRESS) else None
            found.append((verb, ((bracket["text"] or bracket["round"] or "") if bracket else match["rest"]).strip()))
    return found


def _complete(verb: Verb, argument: str, fields: Fields, text: str) -> Truth | str:
    """Return an action with its argument, or the reason why it has none."""
    if verb.action == SCROLL and (gesture := _gesture(fields)):
        first, second, scale = gesture
        if math.dist(first, second) > TAP * scale:
            return Truth(SCROLL, direction=_direction(first, second))
        return "fraction" if scale == 1 else Truth(CLICK, point=first)
    if verb.action == SCROLL:
        return _scroll(verb, argument, fields)
    if verb.action in (CLICK, LONG_PRESS):
        reading = points.read(text)
        if reading.form == "unclear" and argument:
            # The words that introduce a point do not include all names of taps.
            reading = points.read(argument)
        if reading.point is None:
            return "disagree" if reading.form == "not_a_click" else reading.form
        return Truth(verb.action, point=reading.point)
    if verb.action == PRESS:
        key = verb.key or key_name(_first(fields, ("key", "button", "keys", "text", "PRESS")) or argument)
        return Truth(PRESS, key=key) if key else "no_argument"
    if verb.action in (TYPE, OPEN_APP):
        written = _first(fields, _TEXTS if verb.action == TYPE else _APPS) or argument
        return Truth(verb.action, text=written) if written else "no_argument"
    if verb.action == FINISH:
        status = _first(fields, ("status", "goal_status", "STATUS")).lower()
        gave_up = IMPOSSIBLE if verb.key or status in GIVING_UP else None
        return Truth(FINISH, text=_first(fields, _FINAL) or None, key=gave_up)
    return Truth(verb.action)


def _scroll(verb: Verb, argument: str, fields: Fields) -> Truth | str:
    if verb.direction:
        return Truth(SCROLL, direction=verb.direction)
    said = (_first(fields, ("direction", "to", "scroll_direction")) or argument).lower().strip()
    if said not in DIRECTIONS:
        return "no_argument"
    # FingerTip calls scroll(coordinates=…, direction=…) what the finger does; elsewhere scroll moves the view.
    return Truth(SCROLL, direction=OPPOSITE[said] if verb.view and "coordinates" not in fields else said)


def _first(fields: Fields, keys: tuple[str, ...]) -> str:
    return next((value for key in keys for value in fields.get(key, []) if value), "")


def _gesture(fields: Fields) -> tuple[Point, Point, int] | None:
    """Return the first and the last point of a gesture, and the size of the screen in their frame (1 or 1000)."""
    for first, second in _GESTURES:
        if first in fields and second in fields:
            ends = [list(_numbers(fields[key][0])) for key in (first, second)]
            if all(len(end) in (2, 4) for end in ends):
                (a, b), (c, d) = (_centre(end) for end in ends)
                scale = 1 if all(abs(value) <= 1 for value in (a, b, c, d)) else 1000
                return ((b, a), (d, c), scale) if first == "touch_point" else ((a, b), (c, d), scale)
    return None


def _numbers(text: str) -> Iterator[float]:
    for match in _NUMBER.finditer(text[:200]):
        yield float(match[0][:20])


def _centre(values: list[float]) -> Point:
    return (values[0], values[1]) if len(values) == 2 else ((values[0] + values[2]) / 2, (values[1] + values[3]) / 2)


def _direction(first: Point, last: Point) -> str:
    """Return where a finger moved, by the axis on which it moved further."""
    across, down = last[0] - first[0], last[1] - first[1]
    if abs(across) > abs(down):
        return "right" if across > 0 else "left"
    return "down" if down > 0 else "up"
