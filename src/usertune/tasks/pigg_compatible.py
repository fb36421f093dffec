"""The metric of the reference experiment, PIGG on FingerTip-20K, with its parser and its averages.

It exists so that published numbers can be reproduced, as ``evaluation.further_tasks: [pigg_compatible]``. Do not draw
conclusions from it:

- An answer without a readable point is the point (0, 0), so it has a distance and can be a hit near the corner.
- A box is its upper left corner. Minus signs are lost, and of decimals only the digits around the comma remain:
  ``311.7, 541.2`` is (7, 541).
- Expected answers are read in the same way, from the answer turn of the sample.

`usertune.tasks.grounding` does none of this.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from usertune.tasks.metrics import Metric
from usertune.tasks.task import Task
from usertune.tasks.truth import Point

PROMPT = """\
Point to the element of the screenshot that this instruction asks for: {text}
Answer with its position, as integers from 0 to 1000, in this form:
```grounding
[x, y]
```"""
FORMS = {"pigg": "Whatever it is: without a readable point it is (0, 0)."}
FENCE = "```"
BLOCK = "```grounding"
# AITW's 0.14 of the screen; the reference has no other threshold.
RADIUS = 140
_PAIR = r"(\d+)\s*,\s*(\d+)"
# Tried in this order; the first two integers of the first that is found are the point.
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_PAIR}\s*,\s*{_PAIR}",
        rf"{_PAIR}\s*\)\s*to\s*\(\s*{_PAIR}",
        rf"(?:Top-left|Bottom-right)[^:]*:\s*\(?\s*{_PAIR}",
        _PAIR,
    )
)


def read_point(text: str) -> Point:
    """Return the point in the first closed ``grounding`` block of a text, or (0, 0) if there is none."""
    for part in text.split(BLOCK)[1:]:
        block, closing, _ = part.partition(FENCE)
        if closing:
            found = next((match for pattern in _PATTERNS if (match := pattern.search(block))), None)
            return (float(found[1]), float(found[2])) if found else (0.0, 0.0)
    return 0.0, 0.0


def distance(point: Point, target: Point) -> float:
    """Return the Euclidean distance in the 0-1000 space."""
    return math.hypot(point[0] - target[0], point[1] - target[1])


def hit(point: Point, target: Point) -> int:
    """Return 1 within `RADIUS` of the target or at it, else 0."""
    return int(distance(point, target) <= RADIUS)


METRICS = (
    Metric("pigg_accuracy", title="PIGG accuracy", column="pigg_hit", measure=hit, unit="%", unparsed=0, bounds=(0, 1)),
    Metric("pigg_mean_l2", title="PIGG mean L2", column="pigg_distance", measure=distance, better="lower"),
    Metric(
        "pigg_median_l2",
        title="PIGG median L2",
        column="pigg_distance",
        measure=distance,
        aggregate="median",
        better="lower",
    ),
    Metric(
        "pigg_accuracy_by_user",
        title="PIGG accuracy, mean of users",
        column="pigg_hit",
        measure=hit,
        unit="%",
        unparsed=0,
        bounds=(0, 1),
        across="users",
    ),
    Metric(
        "pigg_mean_l2_by_user",
        title="PIGG mean L2, mean of users",
        column="pigg_distance",
        measure=distance,
        better="lower",
        across="users",
    ),
    Metric(
        "pigg_median_l2_by_user",
        title="PIGG median L2, mean of users",
        column="pigg_distance",
        measure=distance,
        aggregate="median",
        better="lower",
        across="users",
    ),
)


class PiggCompatibleTask(Task):
    """Measures answers as the reference experiment does; see the module."""

    name = "pigg_compatible"
    metrics = METRICS
    forms = FORMS

    def target_from_answer(self, text: str) -> dict[str, list[float]]:
        """Return ``{"point": [x, y]}`` from an answer turn.

        Raises:
            ValueError: it has no ``grounding`` block.
        """
        if BLOCK not in text:
            raise ValueError("the answer has no ```grounding block, which all answers of the reference have")
        return {"point": list(read_point(text))}

    def read_target(self, target: Mapping[str, Any]) -> Point:
        """Return a sample's target as (x, y)."""
        x, y = target["point"]
        return float(x), float(y)

    def target_of(self, sample: Mapping[str, Any]) -> Point:
        """Return the point in the expected answer, by the parser of the reference.

        Raises:
            ValueError: see `target_from_answer`.
        """
        turn = sample["messages"][-1]
        return self.read_target(self.target_from_answer("".join(part.get("text", "") for part in turn["content"])))

    def read(self, text: str, ended: bool = True) -> tuple[Point, str]:
        """Return the point of an answer, which is never unparsed: the text after the last ``assistant`` counts."""
        return read_point(text.rpartition("assistant")[2]), "pigg"

    def note(self, threshold: float) -> str:
        """Return the sentence below the tables."""
        return (
            f"PIGG accuracy and L2 are those of the reference experiment: within {RADIUS}, and answers without a point "
            "count as the point (0, 0)."
        )
