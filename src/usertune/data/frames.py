"""Coordinate frames of raw data: convert answers, and check that a user's targets fit the declared frame.

The study declares the frame of its raw data (``dataset.frame``); it is never guessed from single numbers. Samples are
written in ``relative_1000``, in which models answer and are scored. The origin is at the top left in all frames:

- ``relative_1000``: 0 to 1000 on each axis, for any image size.
- ``relative_1``: 0 to 1 on each axis.
- ``pixels``: pixels of the upright image (EXIF rotation applied).

A wrong declaration makes all targets wrong in the same way, so all targets of a user are checked together, bad samples
included (see `frame_problem`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from usertune.tasks.truth import DECIMALS, SCALE, Point, Truth, coordinates

Parse = Callable[[str], Point | None]

BEYOND = {"relative_1000": "1000", "relative_1": "1", "pixels": "their image"}
FRAMES = ("relative_1000", "relative_1", "pixels")
DEFAULT_FRAME = FRAMES[0]

# Targets that only another frame explains are more than slips if they are a fifth of all, or a tenth and at least
# three.
LARGE_SHARE, SMALL_SHARE, FEW = 0.2, 0.1, 3
# Targets count as all in one corner if evenly spread ones would lie there with a probability below 1e-20, the corner
# is at most this share of the image, at least ten targets differ, and they fill at least half of the corner's sides.
DIGITS_OF_CHANCE = 20
LARGEST_CORNER = 0.4
FEWEST_TARGETS = 10
FILLED = 0.5
PERCENT = 100

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?!\w|\.\d)", re.ASCII)
_REFERRING = re.compile(r"```[ \t]*referring\b.*?```", re.DOTALL | re.IGNORECASE)
_GROUNDING = re.compile(r"```[ \t]*grounding\b(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


class Reading(NamedTuple):
    """A target in the raw file: its line, its point, and its image's width and height in pixels (None without one)."""

    line: int
    point: Point
    size: tuple[int, int] | None


def read_point(text: str, parse: Parse, frame: str) -> Point | None:
    """Return the point in a raw answer, in the raw data's frame; None if there is none.

    Args:
        text: the answer.
        parse: `usertune.tasks.grounding.GroundingTask.parse`, made for answers in 0-1000. It may refuse fractions of 1,
            so this function multiplies them by 1000 first.
        frame: the declared frame.
    """
    plain = parse(text)
    enlarged = parse(_NUMBER.sub(lambda match: _plain(Decimal(match[0]) * SCALE), text))
    fractions = (enlarged[0] / SCALE, enlarged[1] / SCALE) if enlarged else None
    if fractions and not all(0 <= value <= 1 for value in fractions):
        fractions = None
    return fractions or plain if frame == "relative_1" else plain or fractions


def looks_like_fraction(point: Point) -> bool:
    """Whether both coordinates lie in 0-1 and at least one is not an integer: implausible in 0-1000 and in pixels."""
    return all(0 <= value <= 1 for value in point) and not all(value == int(value) for value in point)


def convert_answer(text: str, point: Point, frame: str, size: tuple[int, int] | None) -> str:
    """Return a raw answer converted to 0-1000, as models are trained to answer.

    The result is a ``grounding`` block with the point, or with the box if the answer is a box ``[left, top, right,
    bottom]`` around it. A ``referring`` block is kept; other text is dropped, since its numbers would contradict.

    Args:
        text: the answer, in a frame other than ``relative_1000``.
        point: its point in the declared frame, from `read_point`.
        frame: the declared frame.
        size: width and height of the image in pixels; None without an image.

    Raises:
        ValueError: the point lies outside the image, or the frame is ``pixels`` and there is no image.
    """
    limits = _limits(frame, size)
    _require_inside(point, "the answer's point", frame, size)
    box = _box(text, point)
    values = [value / limits[index % 2] * SCALE for index, value in enumerate(box or point)]
    referring = _REFERRING.search(text)
    return (f"{referring[0]}\n" if referring else "") + f"```grounding\n[{coordinates(values)}]\n```"


def convert_numbers(values: Sequence[float], frame: str, size: tuple[int, int] | None) -> str:
    """Return a point or a box as text in 0-1000, such as ``[311.5, 541]``.

    Args:
        values: x and y, or left, top, right and bottom.
        frame: their frame.
        size: width and height of the image in pixels; None without an image.

    Raises:
        ValueError: they lie outside the image, or the frame is ``pixels`` and there is no image.
    """
    limits = _limits(frame, size)
    for at in range(0, len(values), 2):
        _require_inside(values[at : at + 2], "the point", frame, size)
    return f"[{coordinates([value / limits[index % 2] * SCALE for index, value in enumerate(values)])}]"


def convert_truth(truth: Truth, frame: str, size: tuple[int, int] | None) -> Truth:
    """Return an action with its coordinates converted to 0-1000, rounded to `DECIMALS`.

    Args:
        truth: the action, in the raw data's frame.
        frame: the declared frame.
        size: width and height of the image in pixels; None without an image.

    Raises:
        ValueError: point or box lie outside the image, the box is empty, or the frame is ``pixels`` and there is no
            image.
    """
    if truth.point is None and truth.box is None:
        return truth
    limits = _limits(frame, size)

    def converted(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(round(value / limits[index % 2] * SCALE, DECIMALS) for index, value in enumerate(values))

    point, box = truth.point, truth.box
    if point is not None:
        _require_inside(point, "the point", frame, size)
        point = converted(point)[:2]  # type: ignore[assignment]
    if box is not None:
        if box[0] > box[2] or box[1] > box[3]:
            raise ValueError(f"the box {list(box)} is not left, top, right, bottom")
        _require_inside(box[:2], "the box's left top corner", frame, size)
        _require_inside(box[2:], "the box's right bottom corner", frame, size)
        box = converted(box)[:4]  # type: ignore[assignment]
    return replace(truth, point=point, box=box)


def frame_problem(readings: Sequence[Reading], frame: str) -> str | None:
    """Say how a user's targets contradict the declared frame; None if they do not.

    Two kinds of sets contradict it: many targets are impossible in this frame and possible in another (fractions of 1,
    points beyond 1000 or beyond the image), or many different targets all lie in the top left corner, as targets of
    another frame would. A user with few samples passes, and so does one who always taps the same corner.
    """
    if not readings or (finding := _finding(readings, frame)) is None:
        return None
    suggested = finding.frame
    if finding.beyond:
        others = [other for other in ("relative_1000", "pixels") if other != frame and _fits(readings, other)]
        suggested = others[0] if others else None
    return _words(finding, readings, suggested)


class _Finding(NamedTuple):
    """Targets that contradict a frame: which ones, where they lie, and the frame that they look like, if known."""

    found: Sequence[Reading]
    where: str
    frame: str | None = None
    beyond: bool = False


def _finding(readings: Sequence[Reading], frame: str) -> _Finding | None:
    if frame != "relative_1":
        fractions = [reading for reading in readings if looks_like_fraction(reading.point)]
        if all(0 <= value <= 1 for reading in readings for value in reading.point):
            # A few targets at [0, 0] or [1, 1] can be the corner of the screen.
            if fractions or len(readings) >= FEWEST_TARGETS:
                return _Finding(readings, "lie within 0-1", "relative_1")
        elif _many(len(fractions), len(readings)):
            return _Finding(fractions, "lie within 0-1", "relative_1")
    largest: Mapping[str, Callable[[Reading], tuple[float, float]]] = {
        "relative_1000": lambda _: (SCALE, SCALE),
        "relative_1": lambda _: (1, 1),
        "pixels": _size,
    }
    beyond = [reading for reading in readings if _exceeds(reading, largest[frame](reading))]
    if _many(len(beyond), len(readings)):
        return _Finding(beyond, f"lie beyond {BEYOND[frame]}", beyond=True)
    return None if frame == "relative_1" else _corner(readings, frame)


def _fits(readings: Sequence[Reading], frame: str) -> bool:
    return (frame != "pixels" or any(reading.size for reading in readings)) and _finding(readings, frame) is None


def _corner(readings: Sequence[Reading], frame: str) -> _Finding | None:
    # Samples without a good image say nothing about pixels.
    measured = [reading for reading in readings if reading.size]
    sizes = [reading.size for reading in readings if reading.size]
    relative = [(SCALE, SCALE)]
    if frame == "pixels":
        if _all_in_corner(measured, [(PERCENT, PERCENT)] * len(sizes), sizes):
            return _Finding(readings, f"lie within 0-{PERCENT}")
        if _all_in_corner(measured, relative * len(sizes), sizes):
            return _Finding(readings, "lie within 0-1000, one corner of the images", "relative_1000")
        return None
    if _all_in_corner(readings, [(PERCENT, PERCENT)] * len(readings), relative * len(readings)):
        return _Finding(readings, f"lie within 0-{PERCENT}")
    if _all_in_corner(measured, sizes, relative * len(sizes)):
        return _Finding(measured, "lie in the corner that pixels of their image would fill", "pixels")
    return None


def _all_in_corner(
    readings: Sequence[Reading], corners: Sequence[tuple[float, float]], wholes: Sequence[tuple[float, float]]
) -> bool:
    """Whether many different targets fill a corner, of sizes ``corners``, and lie nowhere else in ``wholes``."""
    chance: dict[tuple[int, int], float] = {}
    for reading, corner, whole in zip(readings, corners, wholes, strict=True):
        if _exceeds(reading, corner):
            return False
        part = math.prod(min(1.0, side / limit) for side, limit in zip(corner, whole, strict=True))
        if part > LARGEST_CORNER:
            return False
        chance[round(reading.point[0]), round(reading.point[1])] = -math.log10(part)
    if len(chance) < FEWEST_TARGETS or sum(chance.values()) < DIGITS_OF_CHANCE:
        return False
    for axis in (0, 1):
        values = [reading.point[axis] for reading in readings]
        if max(values) - min(values) < FILLED * min(max(corner[axis] for corner in corners), wholes[0][axis]):
            return False
    return True


def _words(finding: _Finding, readings: Sequence[Reading], frame: str | None) -> str:
    found = finding.found
    count = "all" if len(found) == len(readings) else f"{len(found)} of"
    example = f"{_shown(found[0].point)} in line {found[0].line}"
    size = found[0].size
    screen = f" on an image of {size[0]} x {size[1]} pixels" if size else ""
    if frame:
        converted = "" if frame == DEFAULT_FRAME else " to convert them"
        advice = f"it looks like {frame}: set dataset.frame: {frame}{converted}"
    elif max(max(reading.point) for reading in readings) <= PERCENT:
        advice = "it looks like percentages: multiply them by 10 (relative_1000)"
    else:
        advice = "it looks like pixels of images of another size: scale them to the images"
    return f"{count} {len(readings)} targets {finding.where}, such as {example}{screen}; {advice}"


def _many(count: int, of: int) -> bool:
    return count > 0 and (count >= LARGE_SHARE * of or (count >= FEW and count >= SMALL_SHARE * of))


def _exceeds(reading: Reading, limits: tuple[float, float]) -> bool:
    return reading.point[0] > limits[0] or reading.point[1] > limits[1]


def _size(reading: Reading) -> tuple[float, float]:
    return reading.size or (math.inf, math.inf)


def _limits(frame: str, size: tuple[int, int] | None) -> tuple[float, float]:
    """Return the largest x and y of a frame.

    Raises:
        ValueError: the frame is ``pixels`` and there is no image.
    """
    if frame == "pixels":
        if size is None:
            raise ValueError("dataset.frame is pixels, but the sample has no image")
        return float(size[0]), float(size[1])
    return (1.0, 1.0) if frame == "relative_1" else (float(SCALE), float(SCALE))


def _require_inside(point: Sequence[float], name: str, frame: str, size: tuple[int, int] | None) -> None:
    if all(0 <= value <= limit for value, limit in zip(point, _limits(frame, size), strict=True)):
        return
    screen = f"the image of {size[0]} x {size[1]} pixels" if size else "the image"
    extents = {"relative_1000": "0-1000", "relative_1": "0-1, the range of dataset.frame: relative_1", "pixels": screen}
    raise ValueError(f"{name} {_shown((point[0], point[1]))} lies outside {extents[frame]}")


def _box(text: str, point: Point) -> list[float] | None:
    """Return the four numbers of an answer that is a box around its point."""
    block = _GROUNDING.search(text)
    numbers = [float(number) for number in _NUMBER.findall(block[1] if block else _REFERRING.sub("", text))]
    if len(numbers) != 4 or numbers[0] > numbers[2] or numbers[1] > numbers[3]:
        return None
    centre = (numbers[0] + numbers[2]) / 2, (numbers[1] + numbers[3]) / 2
    return numbers if all(map(math.isclose, centre, point)) else None


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _shown(point: Point) -> str:
    return f"[{point[0]:g}, {point[1]:g}]"
