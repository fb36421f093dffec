r"""Actions written as calls, such as ``click(coordinates=(336, 1267), content='Search')``. Nothing is executed.

The forms (``N`` is a number, quotes are single or double, spaces between parts are allowed)::

    click(coordinates=(N, N), content='...')        long_click(coordinates=(N, N), content='...')
    type(text='...')                                scroll(coordinates=(N, N), direction='up|down|left|right')
    press_back()  press_home()  press_recent()      press(key='...')
    wait()                                          finished()

``content`` may be missing. A quoted text reaches from the first quote to the last one, since some writers escape quotes
within it and others do not. Escapes (``\n``, ``\'``, ``\u4e2d``) are resolved if the text between the quotes is a
valid Python literal; otherwise it is taken as it is.
"""

from __future__ import annotations

import re

from usertune.core.errors import shown
from usertune.tasks.truth import CLICK, DIRECTIONS, FINISH, LONG_PRESS, PRESS, SCROLL, TYPE, WAIT, Truth

_NUMBER = r"-?[0-9]{1,9}(?:\.[0-9]{1,9})?"
_POINT = rf"coordinates\s*=\s*\(\s*(?P<x>{_NUMBER})\s*,\s*(?P<y>{_NUMBER})\s*\)"
_QUOTED = r"(?P<quote>['\"])(?P<text>.*)(?P=quote)"
_TOUCH = rf"{_POINT}(?:\s*,\s*content\s*=\s*{_QUOTED})?"
# Name in the data -> the action, and the form of its arguments.
_FORMS: dict[str, tuple[str, str]] = {
    "click": (CLICK, _TOUCH),
    "long_click": (LONG_PRESS, _TOUCH),
    "type": (TYPE, rf"text\s*=\s*{_QUOTED}"),
    "scroll": (
        SCROLL,
        rf"{_POINT}\s*,\s*direction\s*=\s*(?P<quote>['\"])(?P<direction>{'|'.join(DIRECTIONS)})(?P=quote)",
    ),
    "press_back": (PRESS, ""),
    "press_home": (PRESS, ""),
    "press_recent": (PRESS, ""),
    "press": (PRESS, rf"key\s*=\s*{_QUOTED}"),
    "wait": (WAIT, ""),
    "finished": (FINISH, ""),
}
_ARGUMENTS = {name: re.compile(rf"\s*{arguments}\s*", re.DOTALL | re.ASCII) for name, (_, arguments) in _FORMS.items()}
_CALL = re.compile(r"\s*([a-z_]{1,20})\s*\((.*)\)\s*", re.DOTALL | re.ASCII)
_ESCAPE = re.compile(r"\\(?:([\\'\"abfnrtv])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def parse_call(text: str) -> Truth:
    """Return the action that a call describes, with its coordinates unchanged.

    ``element`` is the ``content`` of a click, None if it is missing.

    Raises:
        ValueError: the text is no call of a known form; the message shows it and the form.
    """
    call = _CALL.fullmatch(text)
    if call is None or call[1] not in _FORMS:
        raise ValueError(f"{shown(text)} is not an action of this format; the actions are {', '.join(_FORMS)}")
    name, (action, _) = call[1], _FORMS[call[1]]
    match = _ARGUMENTS[name].fullmatch(call[2])
    if match is None:
        raise ValueError(f"{shown(text)}: the arguments of {name} have another form, see docs/data.md")
    found = match.groupdict()
    point = (float(found["x"]), float(found["y"])) if found.get("x") is not None else None
    quoted = _unquoted(found["text"], found["quote"]) if found.get("text") is not None else None
    if action == TYPE:
        return Truth(action, text=quoted)
    if action == PRESS:
        return Truth(action, key=quoted if name == "press" else name.removeprefix("press_"))
    return Truth(action, point=point, direction=found.get("direction"), element=quoted)


def _unquoted(text: str, quote: str) -> str:
    """Resolve the escapes of a quoted text, unless a backslash or an unescaped quote shows that it has none."""
    rest = _ESCAPE.sub("", text)
    if "\\" in rest or quote in rest:
        return text
    try:
        return _ESCAPE.sub(_character, text)
    except (ValueError, OverflowError):
        return text


def _character(match: re.Match[str]) -> str:
    if match[1]:
        return _ESCAPED.get(match[1], match[1])
    return chr(int(match[2] or match[3] or match[4], 16))
