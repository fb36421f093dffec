"""The names that models and datasets give to actions, and what each means."""

from __future__ import annotations

from typing import NamedTuple

from usertune.tasks.truth import CLICK, FINISH, LONG_PRESS, OPEN_APP, PRESS, SCROLL, TYPE, WAIT

IMPOSSIBLE = "impossible"
"""`Truth.key` of a ``finish`` that gives up."""
OPPOSITE = {"up": "down", "down": "up", "left": "right", "right": "left"}


class Verb(NamedTuple):
    """An action, with what its name alone says of it; ``view``: a direction is that of the view, not of the finger."""

    action: str
    key: str | None = None
    direction: str | None = None
    view: bool = False


def _verbs(names: str, verb: Verb) -> dict[str, Verb]:
    return dict.fromkeys(names.split(), verb)


VERBS: dict[str, Verb] = {
    **_verbs("click clickat leftclick leftsingle tap tapat touch mouseclick", Verb(CLICK)),
    **_verbs("longpress longclick longtap", Verb(LONG_PRESS)),
    **_verbs("type typetext inputtext input write typewrite", Verb(TYPE)),
    **_verbs("scroll scrollat", Verb(SCROLL, view=True)),
    **_verbs("swipe fling drag leftclickdrag dualpoint", Verb(SCROLL)),
    **_verbs("press presskey keypress systembutton hotkey key", Verb(PRESS)),
    **_verbs("pressback back navigateback", Verb(PRESS, "back")),
    **_verbs("presshome home navigatehome", Verb(PRESS, "home")),
    **_verbs("pressrecent recent recents", Verb(PRESS, "recent")),
    **_verbs("pressenter enter keyboardenter", Verb(PRESS, "enter")),
    **_verbs("wait sleep", Verb(WAIT)),
    **_verbs("finish finished terminate complete taskcomplete statustaskcomplete status answer", Verb(FINISH)),
    **_verbs("impossible taskimpossible statustaskimpossible", Verb(FINISH, IMPOSSIBLE)),
    **_verbs("openapp launchapp launch open", Verb(OPEN_APP)),
}
# Android in the Wild as SeeClick writes it (action_type_id, and 0, 1, 8, 9 for scrolls of the view).
CODES = {
    "0": Verb(SCROLL, direction="up"),
    "1": Verb(SCROLL, direction="down"),
    "3": Verb(TYPE),
    "4": Verb(CLICK),
    "5": Verb(PRESS, "back"),
    "6": Verb(PRESS, "home"),
    "7": Verb(PRESS, "enter"),
    "8": Verb(SCROLL, direction="right"),
    "9": Verb(SCROLL, direction="left"),
    "10": Verb(FINISH),
    "11": Verb(FINISH, IMPOSSIBLE),
}
GIVING_UP = frozenset(["failure", "fail", "failed", "impossible", "infeasible"])
KEYS = {"menu": "recent", "recents": "recent", "appswitch": "recent", "return": "enter"}


def verb_of(name: str, code: bool = False) -> Verb | None:
    """Return what a name means, whatever its case, spaces and underscores; ``code``: it may be a number of AITW."""
    short = "".join(part for part in name.lower() if part not in " _-")
    return VERBS.get(short) or (CODES.get(short) if code else None)


def key_name(name: str) -> str:
    """Return the name of a key as `Truth.key` has it: ``KEYCODE_BACK`` and ``Back`` are ``back``."""
    short = "".join(part for part in name.lower() if part not in " _-")
    short = short.removeprefix("keycode").removeprefix("press")
    return KEYS.get(short, short)
