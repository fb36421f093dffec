r"""Grounding: point at an element of a screenshot.

Coordinates are relative, 0 to 1000 on each axis (x to the right, y downwards, origin top left), whatever
the screenshot's size in pixels. The reference answer is two fenced blocks::

    ```referring
    the blue button 'Send'
    ```
    ```grounding
    [512, 304]
    ```

Models also answer in other forms: `usertune.tasks.points.forms` has those that are read, and
`usertune.tasks.points.examples` an example of each. *Unparsed* is an outcome of its own, with a reason. It is never
treated as a point such as (0, 0), which could be near a target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from usertune.tasks.metrics import AtThresholds, Metric, threshold_label
from usertune.tasks.points.forms import FORMS, REASONS, Reading, read
from usertune.tasks.task import Marks, Task
from usertune.tasks.truth import CLICK, DECIMALS, SCALE, Box, NotAskedError, Point, Truth, coordinates

PROMPT = """\
Point to the element of the screenshot that this instruction asks for: {text}
Answer with its position, each coordinate from 0 to 1000, in this form:
```grounding
[x, y]
```"""


class Target(NamedTuple):
    """The point to click, and the box (left, top, right, bottom) of the element where the data has it, in 0-1000."""

    x: float
    y: float
    box: Box | None = None


def distance(point: Point, target: Sequence[Any]) -> float:
    """Return the Euclidean (L2) distance between two points in the 0-1000 space, not in pixels."""
    return math.hypot(point[0] - target[0], point[1] - target[1])


def hit(point: Point, target: Sequence[Any], threshold: float) -> int:
    """Return 1 where a click is within the threshold of the target or at it, else 0."""
    return int(distance(point, target) <= threshold)


def has_box(target: Target) -> bool:
    """Whether the data has the box of the element."""
    return target.box is not None


def in_box(point: Point, target: Target) -> int:
    """Return 1 where a click is inside the element's box or on its edge, else 0.

    This is the rule of ScreenSpot (Cheng et al. 2024, arXiv:2401.10935, section 4.2) and ScreenSpot-Pro (Li et al.
    2025, arXiv:2504.07981). Where the answer is a box, its centre is the click.
    """
    assert target.box is not None
    left, top, right, bottom = target.box
    return int(left <= point[0] <= right and top <= point[1] <= bottom)


METRICS = (
    Metric(
        "click_accuracy",
        title="click accuracy",
        column="hit",
        measure=hit,
        unit="%",
        unparsed=0,
        bounds=(0, 1),
        at=AtThresholds(title="accuracy at {}", condition="within {} of the target"),
    ),
    Metric("mean_l2", title="mean L2", column="distance", measure=distance, better="lower"),
    Metric("median_l2", title="median L2", column="distance", measure=distance, aggregate="median", better="lower"),
    Metric(
        "in_box",
        title="in box",
        column="in_box",
        measure=in_box,
        unit="%",
        unparsed=0,
        bounds=(0, 1),
        applies=has_box,
        over="samples with the box of the element",
    ),
)


class GroundingTask(Task):
    """Where to click: reads answers and measures distances in the relative 0-1000 space."""

    name = "grounding"
    metrics = METRICS
    forms = FORMS
    reasons = REASONS
    right_and_wrong = ("hit", "miss")
    asks_for_clicks = True

    def clicked(self, target: Target) -> Point:
        """Return the point of a target."""
        return target.x, target.y

    def target_from_answer(self, text: str) -> dict[str, list[float]]:
        """Return the target of a data sample, ``{"point": [x, y]}`` in 0-1000, from its answer turn.

        Raises:
            ValueError: the answer does not parse (the message says why), or its point lies outside 0-1000.
        """
        reading = self.read(text)
        if reading.point is None:
            raise ValueError(
                f"the answer {_shorten(text)!r} has no unambiguous point: {self.reason_in_words(reading.form)}; "
                "expected a block such as '```grounding\\n[512, 304]\\n```'"
            )
        if not all(0 <= value <= SCALE for value in reading.point):
            raise ValueError(
                f"the answer's point {list(reading.point)} lies outside 0-{SCALE}; "
                f"coordinates are relative: pixels / width (or height) x {SCALE}"
            )
        return {"point": list(reading.point)}

    def answer(self, truth: Truth) -> str:
        """Return the two fenced blocks for a click on ``truth.place``; without the first one if no element is named.

        Raises:
            NotAskedError: the action is no click.
            ValueError: the click has no point.
        """
        if truth.action != CLICK:
            raise NotAskedError(truth.action)
        if truth.place is None:
            raise ValueError("the click has neither a point nor a box")
        referring = f"```referring\n{truth.element}\n```\n" if truth.element and "```" not in truth.element else ""
        return f"{referring}```grounding\n[{coordinates(truth.place)}]\n```"

    def target_from_truth(self, truth: Truth) -> dict[str, list[float]]:
        """Return ``{"point": [x, y]}``, with ``"box": [left, top, right, bottom]`` if the data has it, in 0-1000."""
        target = self.target_from_answer(self.answer(truth))
        return target if truth.box is None else {**target, "box": [round(value, DECIMALS) for value in truth.box]}

    def read(self, text: str, ended: bool = True) -> Reading:
        """Return the point (x, y) that an answer names and its form, or None and the reason why it is unparsed.

        Args:
            text: the answer.
            ended: whether it ended by itself; otherwise a number at the end may lack digits.
        """
        reading = read(text)
        if not ended and text[-1:].isdigit() and read(f"{text}0").point != reading.point:
            return Reading(None, "cut_off")
        return reading

    def read_target(self, target: Mapping[str, Any]) -> Target:
        """Return a sample's target; of data with actions, only clicks are targets.

        Raises:
            ValueError: the target is not ``{"point": [x, y]}`` with two finite numbers, or its ``box`` not four.
        """
        found = target if isinstance(target, Mapping) else {}
        if found.get("action", CLICK) != CLICK:
            raise ValueError(f"the target is the action {found['action']!r}; only a click is a target of grounding")
        point, box = found.get("point"), found.get("box")
        if not _are_numbers(point, 2) or (box is not None and not _are_numbers(box, 4)):
            raise ValueError(f'the target is {target!r}; expected {{"point": [x, y]}}')
        assert isinstance(point, list)
        left, top, right, bottom = map(float, box or (0, 0, 0, 0))
        return Target(float(point[0]), float(point[1]), (left, top, right, bottom) if box else None)

    def details(self, answer: Point | None, target: Target) -> dict[str, float | None]:
        """Return what the rows of scores hold beside the metrics: the point, empty where unparsed, and the target."""
        x, y = answer or (None, None)
        return {"x": x, "y": y, "target_x": target.x, "target_y": target.y}

    def note(self, threshold: float) -> str:
        """Return the sentence that explains the metrics below a table; ``threshold`` is the first one."""
        return (
            f"A click is a hit within {threshold_label(threshold)} of the target, in coordinates from 0 to 1000 on "
            "each axis; answers that could not be parsed are misses and have no L2 distance."
        )

    def outcome(self, row: Mapping[str, Any], threshold: float) -> str:
        """Return what came of one answer, in words; ``row`` is that of the table of samples."""
        if not row["parsed"]:
            return f"not parsed ({row['form']}), a miss"
        kind = "hit" if row["distance"] <= threshold else "miss"
        boxed = {0: ", outside the box", 1: ", in the box"}.get(row.get("in_box", math.nan), "")
        outside = "" if _on_screen(row["x"], row["y"]) else ", outside the screenshot"
        return f"{kind}, {row['distance']:,.0f} from the target{boxed}{outside}"

    def marks(self, row: Mapping[str, Any], target: Target, threshold: float) -> Marks:
        """Return what is drawn of one answer; ``row`` is that of the table of samples."""
        shown = row["parsed"] and _on_screen(row["x"], row["y"])
        return Marks((target.x, target.y), (row["x"], row["y"]) if shown else None, threshold, target.box)

    def marks_note(self, threshold: float) -> str:
        """Return the sentence that explains the marks."""
        return (
            f"The cross is the target; the dashed line is the distance of {threshold_label(threshold)} within which a "
            "click is a hit. Where the data has the box of the element, it is drawn too."
        )


def _on_screen(x: float, y: float) -> bool:
    return 0 <= x <= SCALE and 0 <= y <= SCALE


def _are_numbers(values: object, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(_is_finite(value) for value in values)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _shorten(text: str, length: int = 80) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
