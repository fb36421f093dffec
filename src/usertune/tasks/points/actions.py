"""Actions and tags in answers: calls such as ``click(…)``, actions other than clicks, ``<point>…</point>``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from usertune.tasks.points.text import NUMBER, Finding, Group, Number, bare_run, groups_of, joined, numbers_only
from usertune.tasks.points.values import Order, point_of


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


CLICKS = _names(
    "click clickat leftclick rightclick middleclick doubleclick tripleclick leftdouble rightsingle leftsingle "
    "mouseclick tap tapat doubletap longpress longclick longtap touch"
)
_POINTS = _names("point position coordinate coordinates location")
# Actions with a position that is not where to click.
_POINTING = _names(
    "scroll scrollat scrolldocument hscroll vscroll swipe fling drag dragto draganddrop leftclickdrag move moveto "
    "mousemove mousemoveto hover hoverat pinch zoom typetextat"
)
_TYPING = _names("type typetext write typewrite inputtext")
_OTHERS = _names(
    "press presskey pressback presshome pressrecent pressenter keypress hotkey wait sleep finished finish terminate "
    "openapp launchapp navigateback navigatehome calluser systembutton"
)
# Too common to be an action, except as the value of a key such as "action".
_VALUES = _names("key open launch back home recent enter answer status complete screenshot input text none")

_CALL = re.compile(r"(?<![\w.])(?P<name>[A-Za-z_][A-Za-z0-9_.]*+)\(|(?P<open>\()|(?P<close>\))")
# Perhaps two arguments without names, before arguments with names.
_ARGUMENTS = re.compile(rf"\(\s*+(?>(?:(?P<x>{NUMBER})\s*+,\s*+(?P<y>{NUMBER})\s*+,\s*+[A-Za-z_]++\s*+=)?)")
_ACTION = re.compile(
    r"(?<![A-Za-z0-9_])[\"']?+(?P<key>actions?|action_type|action_name|operation|function|command|tool_name|act|op|name|type)"
    r"[\"'*]*+\s*+[:=]\s*+[\"'*]*+(?P<value>[A-Za-z][A-Za-z_]*+)",
    re.IGNORECASE,
)
_DIRECTION = re.compile(
    r"(?<![A-Za-z0-9_])[\"']?+(?:direction|to)[\"']?+\s*+[:=]\s*+[\"']?+(?:up|down|left|right)\b", re.IGNORECASE
)
_VERB = re.compile(
    r"(?:^|(?<=[.!?;] ))[ \t*>#-]*+(?:(?:then|please|first|next|i will|i would|i should|let me|we should)[ ,]+)?"
    r"(?:scroll|swipe|drag|fling|type|hover|press_\w+|input_text|open_app)(?:ing|s)?\b"
    r"(?!\s*+[:=\"'])|\b(?:swipe|drag)(?:s|ging)? from\b",
    re.MULTILINE | re.IGNORECASE,
)
_TAGGED = re.compile(
    r"<(?P<name>point|points|box|bbox|bounding_box|coord|coords|coordinate|coordinates|click|position|loc)>"
    r"(?P<content>[^<]{0,400}+(?>(?:<(?!/|(?P=name)>)[^<]{0,400}+){0,4}))(?>(?P<end></(?P=name)>)?)"
    r"|<\|(?P<mark>box_start|det|point_start|point)\|>(?P<between>[^<]{0,400}+)(?>(?P<close><\|(?:/\w{1,20}|\w{1,20}_end)\|>)?)",
    re.IGNORECASE,
)
_ATTRIBUTES = re.compile(r"<(?P<name>points?|tracks)[ ](?P<attributes>[^<>]{1,400}+)>[^<]{0,400}+(?>(?:</(?P=name)>)?)")
_OPEN_ATTRIBUTES = re.compile(r"<(?:points?|tracks)[ ][^<>]*+\Z")
_ATTRIBUTE = re.compile(rf"(?<!\w)(?P<axis>[xy])(?P<number>\d{{0,2}})=\s*+(?P<value>{NUMBER})")
_COORDS = re.compile(r"(?<!\w)coords=\s*+\[?(?P<numbers>[^\]\"]{1,300}+)")


def clicks_of(text: str) -> list[int]:
    """Return the offsets in ``text`` of the opening brackets of click calls."""
    return [offset for name, offset in calls_of(text) if name in CLICKS or name in _POINTS]


def in_calls(text: str, groups: Sequence[Group], order: Order) -> Iterator[tuple[str, Finding]]:
    """Yield the points in the unnamed arguments of click calls, as ("call", point or reason)."""
    starts = {group.start: group for group in groups}
    for offset in clicks_of(text):
        arguments = _ARGUMENTS.match(text, offset)
        if group := starts.get(offset) or (arguments and starts.get(arguments.end())):
            yield "call", point_of(group, order)
        elif arguments and arguments["x"]:
            yield "call", point_of(Group(0, 0, ((Number(arguments["x"]), Number(arguments["y"])),)), order)


def calls_of(text: str) -> list[tuple[str, int]]:
    """Return the outermost calls of known actions: the name, and the offset of the opening bracket."""
    found: list[tuple[str, int]] = []
    depth, inside = 0, 0
    for match in _CALL.finditer(text):
        if match["close"]:
            depth = max(0, depth - 1)
            inside = inside if depth >= inside else 0
            continue
        depth += 1
        name = short_name((match["name"] or "").rpartition(".")[2])
        if name and not inside and name in CLICKS | _POINTS | _POINTING | _TYPING | _OTHERS:
            found.append((name, match.end() - 1))
            inside = depth
    return found


def short_name(name: str) -> str:
    """Return an action's name without case and underscores."""
    return name.lower().replace("_", "")


def another_action(text: str) -> bool:
    """Whether a text names an action other than a click: by a call, an action's name, a direction or a verb."""
    calls = [name for name, _ in calls_of(text) if name not in _POINTS]
    if any(name in _POINTING for name in calls) or (calls and calls[0] not in CLICKS):
        return True
    for match in _ACTION.finditer(text):
        value, common = short_name(match["value"]), match["key"].lower() in ("name", "type")
        if text[match.end() : match.end() + 1] == "(" or (text[match.end() : match.end() + 1] == " " and common):
            continue
        if value in _POINTING | _TYPING or (not common and value in _OTHERS | _VALUES):
            return True
    return bool(_DIRECTION.search(text) or _VERB.search(text))


def read_tags(text: str, order: Order) -> tuple[list[tuple[str, Finding]], str]:
    """Return the points in tags, as ("tag", point or reason), and the text without the tags that have attributes."""
    found: list[Finding] = []
    order = order.of_x_first()

    def attributes(match: re.Match[str]) -> str:
        found.extend(_of_attributes(match["attributes"]))
        return " "

    text = _ATTRIBUTES.sub(attributes, text)
    end = len(text.rstrip())
    if _OPEN_ATTRIBUTES.search(text, max(0, end - 400)):
        found.append("cut_off")
    for match in _TAGGED.finditer(text):
        content = match["content"] if match["name"] else match["between"]
        content = re.sub(r"<[^<>]{0,40}>", " ", content)
        groups, cut = groups_of(content)
        if cut or (not (match["end"] or match["close"]) and match.end() >= end):
            found.append("cut_off")
        elif numbers_only(content):
            groups = joined(content, groups) or [bare_run(content)]
            found += [point_of(group, order) for group in groups]
    return [("tag", finding) for finding in found], text


def _of_attributes(text: str) -> Iterator[Finding]:
    """Yield the points in the attributes of a tag: percentages in x and y, or an index and coordinates in coords."""
    axes: dict[str, dict[str, Number]] = {}
    for match in _ATTRIBUTE.finditer(text):
        axes.setdefault(match["number"], {})[match["axis"]] = Number(match["value"], percent=True)
    for point in axes.values():
        if len(point) < 2:
            yield "incomplete"
        elif any(float(number.text) > 100 for number in point.values()):
            yield "unclear"
        else:
            yield point_of(Group(0, 0, ((point["x"], point["y"]),)), Order())
    if coords := _COORDS.search(text):
        numbers = bare_run(coords["numbers"]).rows[0]
        # The coordinates follow the index of the image (if there are several) and of the point.
        yield point_of(Group(0, 0, (numbers[-2:],)), Order()) if len(numbers) in (3, 4) else "disagree"
