r"""Grounding: point at an element of a screenshot.

Coordinates are relative, 0 to 1000 on each axis (x to the right, y downwards, origin top left), whatever
the screenshot's size in pixels. The reference answer is two fenced blocks::

    ```referring
    the blue button 'Send'
    ```
    ```grounding
    [512, 304]
    ```

Models do not always keep to that form, so `GroundingTask.parse` also reads what they write instead. Its rules:

1. If there is a ``grounding`` fence (closed or not), only its text counts; the first one if there are several.
   Otherwise everything counts but the ``referring`` blocks.
2. If the first line that is not blank holds only numbers, they are the answer: ``512, 304`` or ``512 304``.
3. Otherwise the first of these decides: a closed bracket with two or more numbers and nothing else, such as
   ``[512, 304]``, ``(512, 304)`` or ``"bbox_2d": [500, 290, 524, 318]``; or ``x`` and ``y`` as keys, such as
   ``{"x": 512, "y": 304}`` or ``x=512, y=304``. Numbers between double quotes are somebody's words and do
   not count.
4. Two numbers are a point, four are a box [left, top, right, bottom] of which the centre is taken. Any other
   count is unparsed, and so is a bracket that is cut off, since its last number may be cut off too.
5. A number is an optional sign, digits and a decimal point. Digits glued to letters (``icon4``, ``512px``,
   ``1e3``), ``nan`` and ``inf`` are not numbers.
6. A point outside 0 to 1000 is kept as it is: it is a miss at a real distance. Beyond `LARGEST_COORDINATE`
   it is no coordinate of any screen but a model that repeats a digit: unparsed.

*Unparsed* is an outcome of its own, ``None``. It is never a point such as (0, 0), which could be near a target.
Every pattern below is possessive or bounded by its next opening character, so the time grows linearly with
the length of the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Point = tuple[float, float]

SCALE = 1000
LARGEST_COORDINATE = 100_000

_NUMBER = r"(?<![\w.])[-+]?+(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?!\w|\.[0-9])"
# With the full-width forms that Chinese and Japanese text uses.
_OPENING, _CLOSING, _COMMA = r"[\[(\uff08\uff3b]", r"[\])\uff09\uff3d]", r"[,\uff0c]"
_SEPARATOR = rf"\s*+{_COMMA}?+\s*+"
_BLANK = r"[^\S\n]*+"

_FENCE = re.compile(r"```[ \t]*+([A-Za-z_]*+)")
_FIND_NUMBER = re.compile(_NUMBER)
_SAME_LINE_SEPARATOR = rf"{_BLANK}{_COMMA}?+{_BLANK}"
_NUMBERS_ALONE = re.compile(rf"\s*+({_NUMBER}(?:{_SAME_LINE_SEPARATOR}{_NUMBER})*+){_SAME_LINE_SEPARATOR}(?:\n|\Z)")
_CANDIDATE = re.compile(
    rf"""(?<!\w)["']?x["']?\s*+[:=]\s*+(?P<x>{_NUMBER}){_SEPARATOR}["']?y["']?\s*+[:=]\s*+(?P<y>{_NUMBER})"""
    rf"""|{_OPENING}\s*+(?P<numbers>{_NUMBER}(?:{_SEPARATOR}{_NUMBER})++){_SEPARATOR}{_CLOSING}"""
    r"""|"[^"\n]*+\""""
)


class GroundingTask:
    """Where to click: parses answers and measures distances in the relative 0-1000 space."""

    name = "grounding"

    def target_from_answer(self, text: str) -> dict[str, list[float]]:
        """Return the target of a data sample, ``{"point": [x, y]}`` in 0-1000, from its answer turn.

        Raises:
            ValueError: the answer does not parse, or its point lies outside 0-1000.
        """
        point = self.parse(text)
        if point is None:
            raise ValueError(
                f"the answer {_shorten(text)!r} holds no point; "
                "expected a block such as '```grounding\\n[512, 304]\\n```'"
            )
        if not all(0 <= value <= SCALE for value in point):
            raise ValueError(
                f"the answer's point {list(point)} lies outside 0-{SCALE}; "
                f"coordinates are relative: pixels / width (or height) x {SCALE}"
            )
        return {"point": list(point)}

    def parse(self, text: str) -> Point | None:
        """Return the point (x, y) that a model's answer names, or None if it is unparsed (rules above)."""
        answer = _answer_part(text)
        if alone := _NUMBERS_ALONE.match(answer):
            return _point(_FIND_NUMBER.findall(alone[1]))
        for candidate in _CANDIDATE.finditer(answer):
            if candidate["numbers"] is not None:
                return _point(_FIND_NUMBER.findall(candidate["numbers"]))
            if candidate["x"] is not None:
                return _point([candidate["x"], candidate["y"]])
        return None

    def distance(self, point: Point, target: Mapping[str, Any]) -> float:
        """Return the Euclidean (L2) distance from ``point`` to the target in the 0-1000 space, not in pixels."""
        x, y = self.target_point(target)
        return math.hypot(point[0] - x, point[1] - y)

    def target_point(self, target: Mapping[str, Any]) -> Point:
        """Return a sample's target as (x, y).

        Raises:
            ValueError: the target is not ``{"point": [x, y]}`` with two finite numbers.
        """
        value = target.get("point") if isinstance(target, Mapping) else None
        if not (isinstance(value, list) and len(value) == 2 and all(_is_finite(part) for part in value)):
            raise ValueError(f'the target is {target!r}; expected {{"point": [x, y]}}')
        return float(value[0]), float(value[1])


def _answer_part(text: str) -> str:
    """Return the text in which the answer's point is looked for: rule 1."""
    elsewhere: list[str] = []
    label: str | None = None
    start = 0
    for fence in [*_FENCE.finditer(text), None]:
        body = text[start : fence.start() if fence else len(text)]
        if label == "grounding":
            return body
        if label != "referring":
            elsewhere.append(body)
        if fence is None:
            break
        # A fence with a name opens a block even when the one before was never closed.
        label = fence[1].lower() or (None if label is not None else "")
        start = fence.end()
    return "\n".join(elsewhere)


def _point(numbers: Sequence[str]) -> Point | None:
    """Return the point of two numbers, the centre of four, None for other counts or absurd values."""
    if len(numbers) not in (2, 4):
        return None
    values = [float(number) for number in numbers]
    if any(abs(value) > LARGEST_COORDINATE for value in values):
        return None
    if len(values) == 2:
        return values[0], values[1]
    left, top, right, bottom = values
    return (left + right) / 2, (top + bottom) / 2


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _shorten(text: str, length: int = 80) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
