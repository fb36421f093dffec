"""Numbers, brackets and quotations in the text of an answer, for `usertune.tasks.points.forms`.

A *group* holds the numbers of one or several points: a bracket with numbers only, nested or not, or a line of bare
numbers. Every pattern is possessive or bounded and every scan reads the text once, so the time is linear in the
length of the text. Groups are in atomic groups, since Python before 3.11.5 matches possessive ones wrongly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from usertune.tasks.truth import Point

Finding = Point | str
"""A point, or the reason (a key of `REASONS`) why there is none."""

MOST_ROWS = 4

# Digits attached to letters (icon4, 512px, 1e3), a colon (times of day), a slash or a dash (dates, ranges) are
# not coordinates. Chinese and Japanese write numbers without a space before them.
NUMBER = (
    r"(?<![^\W\u2e80-\u9fff])(?<!\.)(?<![0-9][-:/~])[-+]?+(?:[0-9]++(?>(?:\.[0-9]*+)?)|\.[0-9]++)"
    r"(?!\w|\.[0-9]|[-:/~][0-9]|[ ][-~][ ][0-9])"
)
PERCENT = r"(?:[ ]?%)"
_TOKEN = re.compile(
    rf"(?P<number>{NUMBER})(?>(?P<percent>{PERCENT})?)|(?P<open>[\[({{])|(?P<close>[\])}}])|(?P<blank>\s++)"
    r"|(?P<separator>[,;])|(?P<other>[^\W\d]++|.)",
    re.DOTALL,
)
# Full-width forms, and signs that look alike.
_PLAIN = str.maketrans(
    "\uff08\uff09\uff3b\uff3d\u3010\u3011\uff0c\u3001\uff1b\uff1a\uff1d\uff05\u2212\uff0d\u2013\u2014\uff5e\u2248\uff0e"
    "\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff19\xa0\u3000",
    "()[][],,;:=%----~=.0123456789  ",
)
_NUMBER_ONLY = re.compile(rf"\s*+{NUMBER}(?>{PERCENT}?)\s*+")
_WORD_ONLY = re.compile(r"[^\W\d][\w \-]{0,40}")
_QUOTED = re.compile(
    r'"(?>(?:[^"\\\n]|\\.)*)(?>(?P<closed>")?)'
    r"|\u201c[^\u201d\n]*+(?>(?P<curly>\u201d)?)|\u300c[^\u300d\n]*+(?>(?P<corner>\u300d)?)"
    r"|(?<!\w)'[^'\n]*+(?P<single>'(?!\w))"
)
_TAG = re.compile(r"<[^<>]{0,40}>")


@dataclass(frozen=True)
class Number:
    """A number as written; ``tight``: it follows a comma without a space."""

    text: str
    percent: bool = False
    tight: bool = False

    @property
    def value(self) -> float:
        """The number; percentages are converted to the 0-1000 frame."""
        return float(self.text) * (10 if self.percent else 1)


@dataclass(frozen=True)
class Group:
    """Numbers between ``start`` and ``end`` of a text; each innermost bracket is a row; ``bare``: without brackets."""

    start: int
    end: int
    rows: tuple[tuple[Number, ...], ...]
    readable: bool = True
    bare: bool = False


@dataclass
class _Frame:
    """A bracket that is still open."""

    start: int
    numbers: list[Number] = field(default_factory=list)
    children: list[Group] = field(default_factory=list)
    separators: set[str] = field(default_factory=set)
    separator: str = ""
    tight: bool = False
    pure: bool = True


def plain(text: str) -> str:
    """Return ``text`` with full-width digits, brackets, commas and colons as ASCII, and one kind of line break."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_PLAIN)


def without_quotations(text: str) -> str:
    """Return ``text`` with quotations replaced by an ellipsis: numbers in them do not count.

    Quoted words (perhaps a key) stay; a quoted number only loses its quotes.
    """

    def replaced(match: re.Match[str]) -> str:
        quotation = match[0]
        if not (match["closed"] or match["curly"] or match["corner"] or match["single"]):
            return quotation
        inner = quotation[1:-1]
        if len(inner) < 60 and _NUMBER_ONLY.fullmatch(inner):
            return f" {inner} "
        return quotation if _WORD_ONLY.fullmatch(inner) else '"\u2026"'

    return _QUOTED.sub(replaced, text)


def numbers_only(text: str) -> bool:
    """Whether a short text holds only numbers, brackets and separators, except for tags."""
    rest = _TAG.sub(" ", text)
    kinds = {match.lastgroup for match in _TOKEN.finditer(rest)}
    return "other" not in kinds and "number" in kinds


_CONTINUES = re.compile(r"\s*+(?:(?:,|to|->|=>|\u2192|-|~)\s*+[\[({]?+|;?+\s*+[\[({])\s*+")


def groups_of(text: str) -> tuple[list[Group], bool]:
    """Return the brackets of a text that hold only numbers, by their start, and whether the text is cut off.

    It is cut off if a bracket is open at its end (an open ``(`` after a space may be prose), or if the list of
    numbers seems to continue.
    """
    found: list[Group] = []
    frames: list[_Frame] = []
    last = ""
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        kind = "number" if kind == "percent" else kind
        if kind == "open":
            frames.append(_Frame(match.start()))
        elif kind == "close" and frames:
            _close(frames, match.end(), found)
        elif frames:
            _extend(frames[-1], kind, match, last, found)
        last = match[0] if kind == "separator" else kind
    cut = any(text[frame.start] != "(" or text[frame.start - 1 : frame.start].isalnum() for frame in frames)
    cut = cut or bool(frames and (frames[-1].pure or last in ("number", ",", ";")))
    for frame in frames:
        found += frame.children
    found.sort(key=lambda group: group.start)
    return found, cut or bool(found and _CONTINUES.fullmatch(text[found[-1].end : found[-1].end + 20]))


def _extend(frame: _Frame, kind: str, match: re.Match[str], last: str, found: list[Group]) -> None:
    """Add one token to the innermost open bracket."""
    if kind == "number":
        if frame.numbers or frame.children:
            frame.separators.add(frame.separator or " ")
        frame.numbers.append(Number(match["number"], match["percent"] is not None, last in (",", ";")))
        frame.separator = ""
        frame.pure = frame.pure and not frame.children
    elif kind == "separator":
        frame.pure = frame.pure and not frame.separator and bool(frame.numbers or frame.children)
        frame.separator = match[0]
    elif kind != "blank":
        frame.pure = False
    if not frame.pure:
        found += frame.children
        frame.children = []


def _close(frames: list[_Frame], end: int, found: list[Group]) -> None:
    """Close the innermost bracket: it becomes a group, part of the bracket around it, or nothing."""
    frame = frames.pop()
    group = None
    if frame.pure and frame.numbers and len(frame.separators) <= 1:
        group = Group(frame.start, end, (tuple(frame.numbers[: 2 * MOST_ROWS]),))
    elif frame.pure and frame.numbers:
        group = Group(frame.start, end, (tuple(frame.numbers[: 2 * MOST_ROWS]),), readable=False)
    elif frame.pure and frame.children:
        rows = [row for child in frame.children[:MOST_ROWS] for row in child.rows][:MOST_ROWS]
        group = Group(frame.start, end, tuple(rows), all(child.readable for child in frame.children))
    if not frames:
        found += [group] if group else frame.children
        return
    parent = frames[-1]
    if group and parent.pure and not parent.numbers:
        parent.children.append(group)
        parent.separator = ""
    else:
        parent.pure = False
        found += [*parent.children, *([group] if group else frame.children)]
        parent.children = []


_BULLETS = r"(?>(?:[-*\u2022>#]\s++|[0-9]{1,2}[.)]\s++)*)"
_MARKS = "[ \\t*_`\"'$]*+"
_BARE_LINE = re.compile(
    rf"^[ \t]*+{_BULLETS}{_MARKS}(?P<numbers>{NUMBER}(?>{PERCENT}?)(?:[ \t]*+[,;]?+[ \t]*+{NUMBER}(?>{PERCENT}?))+)"
    rf"[ \t]*+[,;.]?+{_MARKS}$",
    re.MULTILINE,
)
_BEFORE_ALONE = re.compile(rf"{_MARKS}{_BULLETS}{_MARKS}")
_AFTER_ALONE = re.compile("[ \\t*_`\"'$.,;\\r\u3002]*+(?:\\n|\\Z)")
_CONNECTOR = re.compile(r"\s*+(?>(?:(?:[,;]|to|->|=>|\u2192|\u81f3|\u5230)\s*+)?)|[ ]?[-~][ ]?")


def bare_run(text: str, start: int = 0, end: int | None = None) -> Group:
    """Return the numbers in ``text[start:end]`` as one row."""
    end = len(text) if end is None else end
    numbers: list[Number] = []
    separators: set[str] = set()
    between = ""
    for match in _TOKEN.finditer(text, start, end):
        if match["number"]:
            if numbers:
                separators.add(between.strip() or " ")
            numbers.append(Number(match["number"], match["percent"] is not None, between in (",", ";")))
            between = ""
        else:
            between += match[0]
    return Group(start, end, (tuple(numbers[: 2 * MOST_ROWS]),), len(separators) <= 1, bare=True)


def joined(text: str, groups: list[Group]) -> list[Group]:
    """Return ``groups`` with adjacent pairs joined into one: ``(500, 290), (524, 318)``, or on two lines."""
    result: list[Group] = []
    for group in groups:
        before = result[-1] if result else None
        between = text[before.end : group.start] if before and group.start - before.end <= 20 else "?"
        alike = before and before.bare == group.bare and all(len(row) == 2 for row in (*before.rows, *group.rows))
        # On two lines, nothing else may precede the first one.
        apart = before and "\n" in between and not _BEFORE_ALONE.fullmatch(prefix_of(text, before.start))
        if before and alike and not apart and _CONNECTOR.fullmatch(between):
            rows = (*before.rows, *group.rows)[: MOST_ROWS + 1]
            result[-1] = replace(before, end=group.end, rows=rows, readable=before.readable and group.readable)
        else:
            result.append(group)
    return result


def with_bare_lines(text: str, groups: list[Group]) -> list[Group]:
    """Return ``groups`` and the other lines that hold only bare numbers, by their start."""
    taken = [False] * (len(text) + 1)
    for group in groups:
        taken[group.start : group.end] = [True] * (group.end - group.start)
    spans = [match.span("numbers") for match in _BARE_LINE.finditer(text)]
    lines = [bare_run(text, start, end) for start, end in spans if not taken[start]]
    return sorted([*groups, *lines], key=lambda group: group.start)


def prefix_of(text: str, offset: int, length: int = 120) -> str:
    """Return the text before ``offset`` on its line, at most ``length`` characters."""
    return text[max(0, offset - length) : offset].rpartition("\n")[2]


def stands_alone(text: str, group: Group) -> bool:
    """Whether nothing else is on the lines of a group, except bullets, quotes and full stops."""
    return bool(_BEFORE_ALONE.fullmatch(prefix_of(text, group.start)) and _AFTER_ALONE.match(text, group.end))


def line_above(text: str, group: Group) -> str:
    """Return the last line with text above a group, at most 200 characters; "" if there is none."""
    start = text.rfind("\n", max(0, group.start - 200), group.start)
    return text[max(0, start - 200) : start].rstrip().rpartition("\n")[2] if start >= 0 else ""
