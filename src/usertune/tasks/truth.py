"""What was done on a screen, as readers give it to a task that writes the answer and the target from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Coordinates of answers and targets: 0 to this on each axis, whatever the image's size in pixels.
SCALE = 1000
# A tenth of a unit is a tenth of a pixel on a screen 1000 pixels wide.
DECIMALS = 1

Point = tuple[float, float]
Box = tuple[float, float, float, float]

CLICK, LONG_PRESS, TYPE, SCROLL, PRESS, WAIT, FINISH, OPEN_APP = ACTIONS = (
    "click",
    "long_press",
    "type",
    "scroll",
    "press",
    "wait",
    "finish",
    "open_app",
)
DIRECTIONS = ("up", "down", "left", "right")


class NotAskedError(ValueError):
    """A task does not ask for this kind of action, so the sample is left out and counted; the message is the kind."""


@dataclass(frozen=True)
class Truth:
    """The right action for a sample.

    Coordinates are in the frame of the raw data when a reader gives them, and in 0-1000 when a task gets them.

    Args:
        action: one of `ACTIONS`.
        point: where it was done: x to the right, y downwards, from the top left; None if unknown or nowhere.
        box: left, top, right and bottom of the element that was meant, if the data has it.
        text: typed text, name of the opened app, or the final answer of ``finish``.
        direction: where a scroll moves the finger: one of `DIRECTIONS`.
        key: the pressed key: ``back``, ``home``, ``recent``, ``enter``, ...; ``impossible`` where ``finish`` gives up.
        element: content or description of the element that was meant.
        accepted: further texts that are as right as ``text``, for the task text.
    """

    action: str = CLICK
    point: Point | None = None
    box: Box | None = None
    text: str | None = None
    direction: str | None = None
    key: str | None = None
    element: str | None = None
    accepted: tuple[str, ...] = ()

    @property
    def place(self) -> Point | None:
        """The point, or the centre of the box; None without either."""
        if self.point is not None or self.box is None:
            return self.point
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


def coordinates(values: Sequence[float]) -> str:
    """Return coordinates in 0-1000 as they stand in an answer: ``311.1, 527.9``."""
    # Fractions of 1 in an answer look like another frame.
    digits = 0 if all(value <= 1 for value in values) else DECIMALS
    return ", ".join(f"{round(value, digits):g}" for value in values)
