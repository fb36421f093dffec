r"""Grounding: point at an element of a screenshot.

Coordinates are relative, 0 to 1000 on each axis (x to the right, y downwards, origin top left), whatever
the screenshot's size in pixels. The reference answer is two fenced blocks::

    ```referring
    the blue button 'Send'
    ```
    ```grounding
    [512, 304]
    ```

Models do not always keep to that form. `usertune.tasks.points.forms` has the forms that are read, and
`usertune.tasks.points.examples` an example of each. *Unparsed* is an outcome of its own, with a reason. It is never
a point such as (0, 0), which could be near a target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from usertune.tasks.points.forms import REASONS, Reading, read
from usertune.tasks.points.text import Point
from usertune.tasks.points.values import SCALE


class GroundingTask:
    """Where to click: reads answers and measures distances in the relative 0-1000 space."""

    name = "grounding"

    def target_from_answer(self, text: str) -> dict[str, list[float]]:
        """Return the target of a data sample, ``{"point": [x, y]}`` in 0-1000, from its answer turn.

        Raises:
            ValueError: the answer does not parse (the message says why), or its point lies outside 0-1000.
        """
        reading = self.read(text)
        if reading.point is None:
            reason = REASONS[reading.form].rstrip(".")
            raise ValueError(
                f"the answer {_shorten(text)!r} holds no point that is certain: {reason[0].lower()}{reason[1:]} "
                f"({reading.form}); expected a block such as '```grounding\\n[512, 304]\\n```'"
            )
        if not all(0 <= value <= SCALE for value in reading.point):
            raise ValueError(
                f"the answer's point {list(reading.point)} lies outside 0-{SCALE}; "
                f"coordinates are relative: pixels / width (or height) x {SCALE}"
            )
        return {"point": list(reading.point)}

    def read(self, text: str, ended: bool = True) -> Reading:
        """Return the point (x, y) that an answer names and its form, or None and the reason why it is unparsed.

        Args:
            text: the answer.
            ended: whether it ended by itself; otherwise a number at its very end may lack digits.
        """
        reading = read(text)
        if not ended and text[-1:].isdigit() and read(f"{text}0").point != reading.point:
            return Reading(None, "cut_off")
        return reading

    def parse(self, text: str) -> Point | None:
        """Return the point (x, y) that an answer names, or None if it is unparsed."""
        return read(text).point

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


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _shorten(text: str, length: int = 80) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
