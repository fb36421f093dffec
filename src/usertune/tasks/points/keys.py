"""Points that keys name: ``x`` and ``y``, the edges or corners of a box, lists, percentages from the edges."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from usertune.tasks.points.text import NUMBER, PERCENT, Finding, Group, Number, bare_run, prefix_of
from usertune.tasks.points.values import Order, point_of, scalar_name

_ASCII_BEFORE = r"(?<![A-Za-z0-9_])"
_LIST_NAMES = (
    r"(?:(?:click|tap|target|element|center|centre|predicted|normali[sz]ed|norm|relative|mouse|ui)[_ ])?"
    r"(?:points?(?:_2d)?|coordinates?|coords?|position|pos|location|loc|bbox(?:es)?(?:_2d)?|box(?:es)?(?:_2d)?"
    r"|bounding[_ ]?box(?:es)?|bounds|rect(?:angle)?)"
    r"|click|tap|center|centre|target|element|answer|grounding|start_box|xy|xyxy|xywh|[xy][ ]?+,[ ]?+[xy]"
    r"|(?:\u70b9\u51fb|\u4e2d\u5fc3)?(?:\u5750\u6807|\u4f4d\u7f6e|\u4e2d\u5fc3\u70b9)"
)
_X_FIRST = ("point_2d", "bbox_2d", "box", "start_box")
_MARK = r"[\"'*_)\]]*+\s*+(?>(?:\([^()\n]{0,30}+\)\s*+)?)(?:[:=]|\u4e3a|\u662f)\s*+[*_]*+\s*+"
_LIST = re.compile(rf"{_ASCII_BEFORE}(?P<quote>[\"']?+)(?P<name>{_LIST_NAMES}){_MARK}", re.IGNORECASE)
_BARE_VALUE = re.compile(
    rf"(?P<numbers>{NUMBER}(?>{PERCENT}?)(?:[ \t]*+[,;]?+[ \t]*+{NUMBER}(?>{PERCENT}?))+)(?=[ \t.]*+(?:[\n)\]}}]|\Z))"
)
QUOTED_VALUE = re.compile(
    rf"(?P<key>{_ASCII_BEFORE}[\"']?+(?:{_LIST_NAMES})[\"']?+\s*+[:=]\s*+)(?P<quote>[\"'])(?P<value>[^\"'\n]{{1,200}}+)"
    r"(?P=quote)",
    re.IGNORECASE,
)
"""A list's key and its value in quotes."""

_SCALAR_NAMES = (
    r"[xy][\s_-]?+(?:coord(?:inate)?s?|pos(?:ition)?|cent(?:er|re)|min|max|axis)"
    r"|(?:cent(?:er|re)|pos(?:ition)?|mouse|click|tap|target|coord(?:inate)?|min|max)[\s_-]?+[xy]"
    r"|[xy]_?[012c]|c_?[xy]|[xy](?:\u8f74)?(?:\u5750\u6807)?|left|top|right|bottom|width|height|[wh]"
    r"|\u6a2a\u5750\u6807|\u7eb5\u5750\u6807"
)
_SCALAR = re.compile(
    rf"{_ASCII_BEFORE}[\"']?+(?P<name>{_SCALAR_NAMES})[\"'*_]*+\s*+(?:[:=]|is\b|\u4e3a|\u662f)\s*+[*_]*+\s*+"
    rf"(?P<value>{NUMBER})(?>(?P<percent>{PERCENT})?)",
    re.IGNORECASE,
)
_ONLY_SEPARATORS = re.compile(r"[\s,;\"'*|]*+(?>(?:and\b)?)[\s\"'*]*+")
_OF_PICTURE = re.compile(r"image|screen|display|window|canvas|device|picture|viewport|resolution", re.IGNORECASE)
_SIZE = re.compile(rf"{_ASCII_BEFORE}[\"']?+(?:size|dimensions?){_MARK}", re.IGNORECASE)
_CORNER = re.compile(
    r"(?P<first>(?:top|upper)[\s_-]?+left|left[\s_-]?+(?:top|upper)|\u5de6\u4e0a\u89d2?)"
    r"|(?P<second>(?:bottom|lower)[\s_-]?+right|right[\s_-]?+(?:bottom|lower)|\u53f3\u4e0b\u89d2?)",
    re.IGNORECASE,
)
_CORNER_MARK = re.compile(
    r"(?>(?:[\s_-]*+(?:corner|point|coordinates?|\u5750\u6807))?)[\"'*]*+\s*+"
    r"(?>(?P<mark>[:=]|is[ ]at\b|is\b|at\b|\u4e3a|\u662f)?)\s*+[*]*+\s*+",
    re.IGNORECASE,
)
_FROM_EDGE = re.compile(
    rf"(?P<value>{NUMBER}){PERCENT}[ ](?:of the (?:screen|width|height|way) )?(?:\w++[ ])?from (?:the )?"
    r"(?P<edge>left|top|right|bottom)",
    re.IGNORECASE,
)

# Numbers after these words describe the image, or are quoted.
OTHER_NUMBERS = re.compile(
    r"\b(?:sizes?|resolution|dimensions?|viewport|aspect|referring|labell?ed|labels?)\b|_size\b"
    r"|\b(?:image|screen|screenshot|display|window|canvas|device|picture)s?[\"'\s]*[:=(]?[\"'\s{]*$"
    r"|\b(?:width|height)\b[^,;.]{0,20}$|\u5c3a\u5bf8|\u5206\u8fa8\u7387|\u5927\u5c0f",
    re.IGNORECASE,
)


def in_keys(text: str, groups: Sequence[Group], order: Order) -> Iterator[tuple[str, Finding]]:
    """Yield the points that keys name, as ("key", point or reason)."""
    starts = {group.start: group for group in groups}
    sets = [(names, opening) for names, opening in _scalar_sets(text) if names]
    size = _size_apart(text, starts, [one for one in sets if one[0].keys() == {"w", "h"}])
    for finding in (*_lists(text, starts, order, size), *_scalars(sets, size), *_corners(text, starts, order)):
        yield "key", finding


def _size_apart(
    text: str, starts: dict[int, Group], sets: Sequence[tuple[dict[str, Number], str]]
) -> tuple[Number, ...] | None:
    """Return the size that is separate from all coordinates; it may be the size of the element."""
    for names, opening in sets:
        if not _OF_PICTURE.search(re.split(r"[,;.]", opening)[-1]):
            return names["w"], names["h"]
    match = _SIZE.search(text)
    group = starts.get(match.end()) if match else None
    return group.rows[0] if group and len(group.rows) == 1 and len(group.rows[0]) == 2 else None


def _may_be_corner(row: Sequence[Number], size: tuple[Number, ...] | None) -> bool:
    """Whether a point may be the corner of a box on the screen with a separate size."""
    if size is None or len(row) != 2:
        return False
    return point_of(Group(0, 0, ((*row, *size),)), Order(box="xywh")) != "unclear"


def _lists(text: str, starts: dict[int, Group], order: Order, size: tuple[Number, ...] | None) -> Iterator[Finding]:
    labelled = re.search(r"[\"']label[\"']\s*+:", text) is not None
    for match in _LIST.finditer(text):
        group = starts.get(match.end())
        if group is None and (bare := _BARE_VALUE.match(text, match.end())):
            group = bare_run(text, *bare.span("numbers"))
        before = re.split(r"[,;.{}]", prefix_of(text, match.start()))[-1]
        if group is None or OTHER_NUMBERS.search(before):
            continue
        name = match["name"].lower()
        if name == "box_2d" and not order.box:
            # Only Gemini uses this name, and writes y first.
            yield point_of(group, replace(order, box="tlbr", pair=order.pair or "yx"))
        elif name in ("point", "points") and match["quote"] and not order.pair and labelled:
            # Gemini writes [y, x] in this form, others [x, y].
            yield "order_unclear"
        elif len(group.rows) == 1 and _may_be_corner(group.rows[0], size):
            yield "unclear"
        else:
            yield point_of(group, order.of_x_first() if name in _X_FIRST else order)


def _scalars(sets: Sequence[tuple[dict[str, Number], str]], size: tuple[Number, ...] | None) -> Iterator[Finding]:
    for names, opening in sets:
        if names.keys() == {"x", "y"} and _may_be_corner((names["x"], names["y"]), size):
            yield "unclear"
        else:
            yield from _of_scalars(names, opening)


def _scalar_sets(text: str) -> Iterator[tuple[dict[str, Number], str]]:
    """Yield adjacent coordinates by their short names, and the text before them."""
    found: dict[str, Number] = {}
    end, opening = 0, ""
    for match in _SCALAR.finditer(text):
        name = scalar_name(match["name"])
        between = text[end : match.start()] if found and match.start() - end <= 40 else "{"
        sized = name in ("w", "h") and not found.keys() & {"w", "h"} and not _ONLY_SEPARATORS.fullmatch(between)
        if name in found or sized or set(between) & set("{}"):
            yield found, opening
            found, opening = {}, prefix_of(text, match.start())
        found[name] = Number(match["value"], match["percent"] is not None)
        end = match.end()
    yield found, opening


def _of_scalars(found: dict[str, Number], opening: str) -> Iterator[Finding]:
    """Yield the point of adjacent coordinates or the reason why there is none; nothing if they name no point."""
    if OTHER_NUMBERS.search(re.split(r"[,;.]", opening)[-1]):
        return
    if "x0" in found and "y0" in found:
        found = {{"x0": "x1", "y0": "y1", "x1": "x2", "y1": "y2"}.get(name, name): found[name] for name in found}
    names = found.keys()
    if {"cx", "cy"} <= names:
        yield point_of(Group(0, 0, ((found["cx"], found["cy"]),)), Order())
    elif {"x1", "y1", "x2", "y2"} <= names:
        yield point_of(Group(0, 0, (tuple(found[name] for name in ("x1", "y1", "x2", "y2")),)), Order())
    elif {"w", "h"} <= names and names & {"x", "x1"}:
        corner = [found.get(name, found.get(f"{name}1")) for name in ("x", "y")]
        numbers = [number for number in (*corner, found["w"], found["h"]) if number]
        centre = point_of(Group(0, 0, (tuple(numbers),)), Order(box="xywh"))
        yield centre if len(numbers) == 4 else "incomplete"
    elif {"x", "y"} <= names and not names & {"w", "h"}:
        yield point_of(Group(0, 0, ((found["x"], found["y"]),)), Order())
    elif names & {"x", "y", "cx", "cy"}:
        yield "incomplete"


def _corners(text: str, starts: dict[int, Group], order: Order) -> Iterator[Finding]:
    rows = {}
    marked = False
    for match in _CORNER.finditer(text):
        mark = _CORNER_MARK.match(text, match.end())
        group = starts.get(mark.end()) if mark else None
        if mark and group and all(len(row) == 2 for row in group.rows):
            rows[match.lastgroup] = group.rows[0]
            marked = marked or mark["mark"] is not None
    if len(rows) == 2:
        yield point_of(Group(0, 0, (rows["first"], rows["second"])), order)
    elif rows and marked:
        yield "incomplete"


def in_percentages(text: str) -> Iterator[tuple[str, Finding]]:
    """Yield the point that percentages from the left and from the top name, as ("percent", point or reason)."""
    found = [(match["edge"].lower(), Number(match["value"], True)) for match in _FROM_EDGE.finditer(text)]
    edges = dict(found)
    if len(edges) < len(found):
        yield "percent", "disagree"
    elif found and edges.keys() == {"left", "top"}:
        yield "percent", point_of(Group(0, 0, ((edges["left"], edges["top"]),)), Order())
    elif found:
        yield "percent", "incomplete"
