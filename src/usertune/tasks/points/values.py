"""From numbers to a point: the order of a list's numbers, the centre of a box, and numbers that are not coordinates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from usertune.tasks.points.text import NUMBER, PERCENT, Finding, Group, Number
from usertune.tasks.truth import SCALE

LARGEST_COORDINATE = 100_000

_NAME = r"(?:[xy]_?(?:min|max|center|[012c])?|(?:c|center|min|max)_?[xy]|left|top|right|bottom|width|height|[wh])"
_DECLARED = re.compile(
    rf"(?<![\w.])(?P<names>{_NAME}(?:\s*+,\s*+{_NAME}){{1,3}})(?=\s*+[\])=:])|\b(?P<word>xywh|xyxy|yxyx)\b",
    re.IGNORECASE,
)
_NUMBERS = re.compile(rf"[\[(]\s*+{NUMBER}|^[ \t]*+{NUMBER}(?>{PERCENT}?)[ \t]*+[,;]?+[ \t]*+{NUMBER}", re.MULTILINE)
_PAIRS = {"x y": "xy", "cx cy": "xy", "y x": "yx", "cy cx": "yx"}
_BOXES = {
    "x1 y1 x2 y2": "ltrb",
    "y1 x1 y2 x2": "tlbr",
    "x y w h": "xywh",
    "x1 y1 w h": "xywh",
    "cx cy w h": "cxcywh",
    "xywh": "xywh",
    "xyxy": "ltrb",
    "yxyx": "tlbr",
}
_EDGES = {"left": "x1", "top": "y1", "right": "x2", "bottom": "y2", "width": "w", "height": "h"}


@dataclass(frozen=True)
class Order:
    """The order of the numbers in a list, as far as the text declares it.

    ``pair`` is "xy", "yx", "?" (ambiguous) or "" (not declared); ``box`` is "ltrb", "tlbr" (y first),
    "xywh" (a corner, width and height), "cxcywh" (the centre, width and height), "?" or "".
    """

    pair: str = ""
    box: str = ""

    def of_x_first(self) -> Order:
        """Return the order in a form that always has x first: ambiguous if the text declares y first."""
        return Order("?" if self.pair == "yx" else self.pair, "?" if self.box == "tlbr" else self.box)


def order_of(text: str) -> Order:
    """Return the order that a text declares by a list of names, such as ``[ymin, xmin, ymax, xmax]``.

    An unusual order is ambiguous unless it precedes the only numbers of the text.
    """
    pairs: set[str] = set()
    boxes: set[str] = set()
    numbers = [match.start() for match in _NUMBERS.finditer(text)]
    for match in _DECLARED.finditer(text):
        pair, box = _declared(match)
        unclear = len(numbers) > 1 or (numbers and numbers[0] < match.start())
        pairs |= {"?" if unclear and pair == "yx" else pair} - {""}
        boxes |= {"?" if unclear and box not in ("", "ltrb") else box} - {""}
    pair, box = ("?" if len(found) > 1 else "".join(found) for found in (pairs, boxes))
    return Order(pair, box)


def _declared(match: re.Match[str]) -> tuple[str, str]:
    """Return the order of pairs and of boxes that a list of names declares; at least one of them is empty."""
    names = match["word"] or " ".join(scalar_name(name) for name in match["names"].split(","))
    names = names.lower().replace("x0 y0 x1 y1", "x1 y1 x2 y2").replace("y0 x0 y1 x1", "y1 x1 y2 x2")
    return (_PAIRS.get(names, ""), "") if names.count(" ") == 1 else ("", _BOXES.get(names, "?"))


def without_orders(text: str) -> str:
    """Return ``text`` with declared orders replaced by the word "point"."""
    return _DECLARED.sub(lambda match: "point" if any(_declared(match)) else match[0], text)


def scalar_name(name: str) -> str:
    """Return the short name of a coordinate: x, y, cx, cy, x0 to y2, w or h."""
    short = re.sub(r"[\W_]", "", name.lower())
    if short in _EDGES:
        return _EDGES[short]
    axis = "y" if "y" in short or "\u7eb5" in short else "x" if "x" in short or "\u6a2a" in short else short
    if axis not in ("x", "y"):
        return axis
    for parts, kind in ((("min",), f"{axis}1"), (("max",), f"{axis}2"), (("cent",), f"c{axis}")):
        if any(part in short for part in parts):
            return kind
    if short in (f"c{axis}", f"{axis}c"):
        return f"c{axis}"
    return short if short in ("x0", "x1", "x2", "y0", "y1", "y2") else axis


def point_of(group: Group, order: Order) -> Finding:
    """Return the point of a group (its two numbers, or the centre of its box), or the reason why there is none."""
    rows = group.rows
    numbers = [number for row in rows for number in row]
    if any(len(row) > 1 and all(number.value == -1 for number in row) for row in rows):
        return "no_point"
    if len({number.percent for number in numbers}) > 1:
        return "unclear"
    values = [_values(row, group) for row in rows]
    for value in values:
        if isinstance(value, str):
            return value
    if any(_are_fractions(row) for row in (*rows, numbers)):
        return "fraction"
    lists = [value for value in values if not isinstance(value, str)]
    if not all(len(value) in (2, 4) for value in lists):
        return "count"
    if len(lists) == 2 and all(len(value) == 2 for value in lists):
        return _corners(lists, order)
    points = {_pair(value, order) if len(value) == 2 else _box(value, order) for value in lists}
    return points.pop() if len(points) == 1 else "disagree"


def _pair(values: Sequence[float], order: Order) -> Finding:
    if order.pair == "?":
        return "order_unclear"
    return (values[1], values[0]) if order.pair == "yx" else (values[0], values[1])


def _corners(pairs: Sequence[Sequence[float]], order: Order) -> Finding:
    """Return the centre between the upper left and the lower right corner; other pairs of points disagree."""
    if order.pair == "?":
        return "order_unclear"
    (left, top), (right, bottom) = (reversed(pair) if order.pair == "yx" else pair for pair in pairs)
    return ((left + right) / 2, (top + bottom) / 2) if left <= right and top <= bottom else "disagree"


def _box(values: Sequence[float], order: Order) -> Finding:
    first, second, third, fourth = values
    if order.box == "?":
        return "order_unclear"
    if order.box == "tlbr":
        first, second, third, fourth = second, first, fourth, third
    if order.box == "cxcywh":
        return first, second
    if order.box == "xywh":
        return _centre_of_size(first, second, third, fourth)
    if first > third or second > fourth:
        return "box_order"
    return (first + third) / 2, (second + fourth) / 2


def _centre_of_size(x: float, y: float, width: float, height: float) -> Finding:
    """Return the centre of a box given by its upper left corner and size, which must fit on the screen."""
    if width < 0 or height < 0:
        return "box_order"
    if x + width > SCALE or y + height > SCALE:
        # More likely the size of the screenshot than of an element.
        return "unclear"
    return x + width / 2, y + height / 2


def _are_fractions(numbers: Sequence[Number]) -> bool:
    """Whether all numbers are at most 1 and, of a point, not all are integers."""
    if any(number.percent or abs(float(number.text)) > 1 for number in numbers):
        return False
    return len(numbers) > 2 or any(not float(number.text).is_integer() for number in numbers)


def _values(row: Sequence[Number], group: Group) -> list[float] | str:
    """Return a row's numbers, or the reason why they are not coordinates."""
    values = [number.value for number in row]
    if any(abs(value) > LARGEST_COORDINATE for value in values):
        return "too_large"
    if not group.readable:
        return "unclear"
    return "thousands" if _thousands(row, group.bare) else values


def _thousands(row: Sequence[Number], bare: bool) -> bool:
    """Whether numbers have thousands separators (1,080, 2,340), or leading zeros that are not padding (090, 412)."""
    texts = [number.text for number in row]
    padded = all(len(text.partition(".")[0]) in (3, 4) for text in texts)
    if not padded and any(re.match(r"[-+]?0[0-9]", text) for text in texts):
        return True
    return (
        len(row) in ((2, 4) if bare else (4,))
        and all(len(text) == 1 and text.isdigit() for text in texts[::2])
        and all(number.tight and len(number.text) == 3 and number.text.isdigit() for number in row[1::2])
    )
