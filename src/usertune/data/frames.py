"""Coordinate frames of raw data: what numbers in an answer mean, and whether a user's targets look like what is said.

The study declares the frame of its raw data (``dataset.frame``); nothing is guessed from single numbers. Samples are
written in ``relative_1000``, the frame in which models answer and are scored:

- ``relative_1000``: 0 to 1000 on each axis, whatever the image's size.
- ``relative_1``: 0 to 1 on each axis.
- ``pixels``: of the image, upright (EXIF rotation applied), origin top left.

A wrong declaration gives targets that are all wrong together, so a user's whole set of targets is judged, bad samples
included (see `frame_problem`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

Point = tuple[float, float]
Parse = Callable[[str], Point | None]

BEYOND = {"relative_1000": "1000", "relative_1": "1", "pixels": "their image"}
FRAMES = ("relative_1000", "relative_1", "pixels")
DEFAULT_FRAME = FRAMES[0]
SCALE = 1000
# A tenth of a unit is a tenth of a pixel of a screen that is 1000 pixels wide.
DECIMALS = 1

# So many targets that only another frame explains are no slips: a fifth of all, or a tenth and at least three.
LARGE_SHARE, SMALL_SHARE, FEW = 0.2, 0.1, 3
# All targets in one corner: the probability that this many different targets, spread evenly, lie there by chance is
# below 10 to the minus 20, the corner is at most this part of the image, and they fill at least half its sides.
DIGITS_OF_CHANCE = 20
LARGEST_CORNER = 0.4
FEWEST_TARGETS = 10
FILLED = 0.5
PERCENT = 100

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?!\w|\.\d)", re.ASCII)
_REFERRING = re.compile(r"```[ \t]*referring\b.*?```", re.DOTALL | re.IGNORECASE)
_GROUNDING = re.compile(r"```[ \t]*grounding\b(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


class Reading(NamedTuple):
    """A target as the raw file has it: its line, its point, and width and height of its image (None without one)."""

    line: int
    point: Point
    size: tuple[int, int] | None


def read_point(text: str, parse: Parse, frame: str) -> Point | None:
    """Return the point that an answer of the raw data names, in the raw data's numbers; None if it names none.

    Args:
        text: the answer.
        parse: `usertune.tasks.grounding.GroundingTask.parse`, made for answers in 0-1000. It need not take fractions
            of 1 for points, so those are read a thousand times as large.
        frame: the declared frame.
    """
    plain = parse(text)
    enlarged = parse(_NUMBER.sub(lambda match: _plain(Decimal(match[0]) * SCALE), text))
    fractions = (enlarged[0] / SCALE, enlarged[1] / SCALE) if enlarged else None
    if fractions and not all(0 <= value <= 1 for value in fractions):
        fractions = None
    return fractions or plain if frame == "relative_1" else plain or fractions


def looks_like_fraction(point: Point) -> bool:
    """Whether both coordinates lie within 0-1, and not both are whole: no sensible point in 0-1000, nor in pixels."""
    return all(0 <= value <= 1 for value in point) and not all(value == int(value) for value in point)


def convert_answer(text: str, point: Point, frame: str, size: tuple[int, int] | None) -> str:
    """Return an answer of the raw data with its numbers in 0-1000: what a model is trained to say.

    It is written as a ``grounding`` block with the point, or with the box where the answer is a box ``[left, top,
    right, bottom]`` around it. A ``referring`` block is kept; other text is not, since its numbers would contradict.

    Args:
        text: the answer, in a frame other than ``relative_1000``.
        point: its point, see `read_point`.
        frame: the declared frame.
        size: width and height of the image in pixels.

    Raises:
        ValueError: the point lies outside the image, or there is none and the frame is ``pixels``.
    """
    if frame == "relative_1":
        limits, whole = (1.0, 1.0), "0-1, which dataset.frame: relative_1 says"
    elif size is None:
        raise ValueError("dataset.frame is pixels, but the sample has no image whose size they could be measured by")
    else:
        limits, whole = (float(size[0]), float(size[1])), f"the image of {size[0]} x {size[1]} pixels"
    if not all(0 <= value <= limit for value, limit in zip(point, limits, strict=True)):
        raise ValueError(f"the answer's point {_shown(point)} lies outside {whole}")
    box = _box(text, point)
    values = [value / limits[index % 2] * SCALE for index, value in enumerate(box or point)]
    # Fractions of 1 in an answer look like another frame.
    digits = 0 if all(value <= 1 for value in values) else DECIMALS
    numbers = ", ".join(f"{round(value, digits):g}" for value in values)
    referring = _REFERRING.search(text)
    return (f"{referring[0]}\n" if referring else "") + f"```grounding\n[{numbers}]\n```"


def frame_problem(readings: Sequence[Reading], frame: str) -> str | None:
    """Say how a user's targets contradict the declared frame; None if they do not.

    Refused are sets with many targets that the frame cannot have but another one can (fractions of 1, points beyond
    1000 or beyond the image), and sets of many different targets that all lie in the top left corner which another
    frame would fill. A user with few samples, or who always taps the same corner, passes.
    """
    if not readings or (finding := _finding(readings, frame)) is None:
        return None
    suggested = finding.frame
    if finding.beyond:
        others = [other for other in ("relative_1000", "pixels") if other != frame and _fits(readings, other)]
        suggested = others[0] if others else None
    return _words(finding, readings, suggested)


class _Finding(NamedTuple):
    """Targets that contradict a frame: which, where they lie, and the frame that they look like, if it is known."""

    found: Sequence[Reading]
    where: str
    frame: str | None = None
    beyond: bool = False


def _finding(readings: Sequence[Reading], frame: str) -> _Finding | None:
    if frame != "relative_1":
        fractions = [reading for reading in readings if looks_like_fraction(reading.point)]
        if all(0 <= value <= 1 for reading in readings for value in reading.point):
            # A single [0, 0] or [1, 1] is a corner of the screen.
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
    # Samples without an image, or with a bad one, say nothing about pixels.
    measured = [reading for reading in readings if reading.size]
    sizes = [reading.size for reading in readings if reading.size]
    relative = [(SCALE, SCALE)]
    if frame == "pixels":
        if _all_in_corner(measured, [(PERCENT, PERCENT)] * len(sizes), sizes):
            return _Finding(readings, f"lie within 0-{PERCENT}")
        if _all_in_corner(measured, relative * len(sizes), sizes):
            return _Finding(readings, "lie within 0-1000, which is one corner of the images", "relative_1000")
        return None
    if _all_in_corner(readings, [(PERCENT, PERCENT)] * len(readings), relative * len(readings)):
        return _Finding(readings, f"lie within 0-{PERCENT}")
    if _all_in_corner(measured, sizes, relative * len(sizes)):
        return _Finding(measured, "lie in the corner that their image's size in pixels would fill", "pixels")
    return None


def _all_in_corner(
    readings: Sequence[Reading], corners: Sequence[tuple[float, float]], wholes: Sequence[tuple[float, float]]
) -> bool:
    """Whether many different targets fill a corner of the whole, and nothing else of it."""
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
        converted = "" if frame == DEFAULT_FRAME else ", and they are converted"
        advice = f"it looks like {frame}: set dataset.frame: {frame}{converted}"
    elif max(max(reading.point) for reading in readings) <= PERCENT:
        advice = "it looks like percentages: multiply them by 10 (relative_1000)"
    else:
        advice = "it looks like pixels of another size than the images have: scale them to the images"
    return f"{count} {len(readings)} targets {finding.where}, such as {example}{screen}; {advice}"


def _many(count: int, of: int) -> bool:
    return count > 0 and (count >= LARGE_SHARE * of or (count >= FEW and count >= SMALL_SHARE * of))


def _exceeds(reading: Reading, limits: tuple[float, float]) -> bool:
    return reading.point[0] > limits[0] or reading.point[1] > limits[1]


def _size(reading: Reading) -> tuple[float, float]:
    return reading.size or (math.inf, math.inf)


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
