"""What a task is to the steps that use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

Point = tuple[float, float]


class Task(Protocol):
    """What is asked for: it reads answers and measures how far they are from the target.

    A task knows nothing of models, users or files. It is made without arguments.
    """

    name: str

    def target_from_answer(self, text: str) -> dict[str, Any]:
        """Return the target of a data sample from the text of its answer turn; it is kept with the sample as JSON.

        Raises:
            ValueError: the answer holds no target; the message says why.
        """

    def read(self, text: str, ended: bool = True) -> tuple[Point | None, str]:
        """Read a model's answer.

        Args:
            text: the answer.
            ended: whether it ended by itself; otherwise it was cut off at its longest length.

        Returns:
            The point (x, y) that it names, in the relative 0-1000 space, and the form in which it does; or None and
            the reason why it is unparsed.
        """

    def parse(self, text: str) -> Point | None:
        """Return the point (x, y) that an answer names, or None if it is unparsed."""

    def distance(self, point: Point, target: Mapping[str, Any]) -> float:
        """Return the distance from a point to the target, in the relative 0-1000 space."""

    def target_point(self, target: Mapping[str, Any]) -> Point:
        """Return a sample's target as a point (x, y).

        Raises:
            ValueError: it is not a target of this task.
        """
