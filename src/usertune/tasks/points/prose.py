"""Points without a call, tag or key: alone on a line, or in prose."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from usertune.tasks.points.keys import OTHER_NUMBERS
from usertune.tasks.points.text import (
    NUMBER,
    Finding,
    Group,
    bare_run,
    joined,
    line_above,
    prefix_of,
    stands_alone,
    with_bare_lines,
)
from usertune.tasks.points.values import Order, point_of, without_orders
from usertune.tasks.truth import SCALE

_NOUN = r"coordinates?|coords?|position|location|points?|cent(?:er|re)|answer|target|b?box|bounds"
_CJK_NOUN = r"\u5750\u6807|\u4f4d\u7f6e|\u4e2d\u5fc3\u70b9?|\u7b54\u6848|\u70b9"
_END = "[\\s)\\]:=\u4e3a\u662f\u5728\"'`*~]*$"
_CUE = re.compile(
    rf"(?:\b(?:at|(?:\w{{1,9}}_)?click(?:ing|ed)?|tap(?:ping|ped)?|press|touch|{_NOUN})|\u70b9\u51fb|{_CJK_NOUN})"
    rf"(?:[ ](?:is|are|be|at|on|here|around|about|approximately|roughly|exactly)){{0,3}}{_END}",
    re.IGNORECASE,
)
_CUE_BY_NOUN = re.compile(
    rf"(?:\b(?:{_NOUN})\b|{_CJK_NOUN}).*(?:\b(?:is|are|be|at)|[:=\u4e3a\u662f]){_END}", re.IGNORECASE
)
# Numbers after these words are not the answer, or not only.
_NOT_THIS = re.compile(
    r"\b(?:not|never|no|none|cannot|without|instead|rather|avoid|wrong|previous|earlier|example|e\.g|such as|from"
    r"|between|unlike|next to|besides?|below|above|near|under|behind|left of|right of"
    r"|cells?|rows?|columns?|grid|scroll(?:s|ing)?|swip(?:es?|ing)|drag(?:s|ging)?|hover(?:s|ing)?)\b|n['\u2019]t\b|\u4e0d|\u6ca1",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?;](?=\s)|[\u3002\uff01\uff1f]")
# Labels of numbers that are not a point.
_OTHER_LABEL = re.compile(
    r"\b(?:times?|dates?|scores?|totals?|prices?|versions?|pages?|counts?|numbers?|ranges?|unread|year|[xy])\W*$",
    re.IGNORECASE,
)
_PIXELS = re.compile(r"\s?(?:px|pixels?)\b", re.IGNORECASE)
_LABEL = re.compile(r"[^\s:][^:]*:[\s*_`]*$")


_BOX = re.compile(r"\b(?:box|region|area|rectangle|bounds|spans?|extends|stretches|covers)\b", re.IGNORECASE)
_NO_BOX = re.compile(r"\b(?:not|never|no|cannot|move|slide|pull|drag|swipe)\b|n['\u2019]t\b", re.IGNORECASE)
_BARE_END = re.compile(
    rf"(?<=[ :=])(?P<numbers>{NUMBER}, {NUMBER}(?>(?:, {NUMBER}, {NUMBER})?))[ \t.]*+$", re.MULTILINE
)


def in_lines(text: str, groups: Sequence[Group], order: Order) -> Iterator[tuple[str, Finding]]:
    """Yield the points on lines that hold nothing else, as ("line", point or reason)."""
    first, last = len(text) - len(text.lstrip()), len(text.rstrip())
    before: Group | None = None
    for group in joined(text, with_bare_lines(text, list(groups))):
        continued = before is not None and _continues(text, before, group)
        before = group
        bare = text[group.start] not in "[({"
        begins = group.start - len(prefix_of(text, group.start)) <= first
        # Bare numbers between other lines are usually a list, a table or a calendar.
        if continued or not stands_alone(text, group) or (bare and not begins and last - group.end > 4):
            continue
        above = line_above(text, group)
        # A line that ends within a sentence or with a colon describes the next one.
        label = "" if above[-1:] in tuple(".!?\u3002)]}>0123456789") else above
        if not (OTHER_NUMBERS.search(label) or _NOT_THIS.search(label)):
            yield "line", point_of(group, order)


def _continues(text: str, before: Group, group: Group) -> bool:
    """Whether a pair alone on a line follows a pair at the end of a line of prose: perhaps two corners."""
    pairs = all(len(row) == 2 for row in (*before.rows, *group.rows)) and not stands_alone(text, before)
    between = text[before.end : group.start] if group.start - before.end <= 20 else "?"
    label = re.split(r"[\])}]", prefix_of(text, before.start))[-1]
    return pairs and not between.strip(" \n.,;*_`") and not OTHER_NUMBERS.search(label)


def in_words(text: str, groups: Sequence[Group], order: Order) -> Iterator[tuple[str, Finding]]:
    """Yield the points that words introduce and, if there are any, all others, as ("words", point or reason)."""
    introduced: list[Finding] = []
    others: list[Finding] = []
    beginning = len(text) - len(text.lstrip(" \t\r\n*_`'\""))
    ending = len(text.rstrip(" \t\r\n.*_`'\"\u3002"))
    bare = [bare_run(text, *match.span("numbers")) for match in _BARE_END.finditer(text)]
    for group in (*groups, *bare):
        clause = without_orders(_SENTENCE_END.split(prefix_of(text, group.start))[-1])
        if OTHER_NUMBERS.search(clause) or (group.bare and not _CUE_BY_NOUN.search(clause)):
            continue
        finding = "unclear" if _PIXELS.match(text, group.end) else point_of(group, order)
        opening = group.start <= beginning and not _described(text, group)
        closing = group.end >= ending and _is_label(clause) and _on_screen(finding)
        if _introduces(clause) or opening or closing or _is_box(clause, group):
            introduced.append(finding)
        elif all(len(row) in (2, 4) for row in group.rows):
            others.append(finding)
    if introduced:
        for finding in (*introduced, *others):
            yield "words", finding


def _introduces(clause: str) -> bool:
    return bool((_CUE.search(clause) or _CUE_BY_NOUN.search(clause)) and not _NOT_THIS.search(clause))


def _is_label(clause: str) -> bool:
    return bool(_LABEL.search(clause) and not _OTHER_LABEL.search(clause) and not _NOT_THIS.search(clause))


def _is_box(clause: str, group: Group) -> bool:
    """Whether the words before two corners name a box."""
    return bool(len(group.rows) == 2 and _BOX.search(clause) and not _NO_BOX.search(clause))


def _described(text: str, group: Group) -> bool:
    """Whether the text after a group names something else, such as the size of the screenshot."""
    return bool(OTHER_NUMBERS.search(text[group.end : group.end + 80].partition("\n")[0]))


def _on_screen(finding: Finding) -> bool:
    return not isinstance(finding, str) and all(0 <= value <= SCALE for value in finding)
