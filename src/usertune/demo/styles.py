"""The personal style of a demo user: theme, palette, layout, wordings, and own looks of some apps.

Everything follows from ``(seed, user)``, so a user's data do not depend on which other users are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from usertune.demo.screens import (
    COLOURS,
    COLUMNS,
    LOOKS,
    MAX_HALF_SIZE,
    MIN_HALF_SIZE,
    ROWS,
    Icon,
    Rgb,
    Screen,
    jittered_colour,
    nudged,
    place_icon,
)

# The usual look of each app. The base model has never seen the names; fine-tuning across users teaches them.
APPS: dict[str, tuple[str, str]] = {
    "Mail": ("red", "square"),
    "Maps": ("green", "triangle"),
    "Music": ("purple", "circle"),
    "Notes": ("yellow", "square"),
    "Photos": ("orange", "circle"),
    "Chat": ("green", "circle"),
    "Bank": ("blue", "square"),
    "News": ("red", "triangle"),
    "Clock": ("blue", "circle"),
    "Games": ("purple", "cross"),
    "Health": ("red", "cross"),
    "Shop": ("orange", "triangle"),
}
# Every user has one wording that the base model knows and one that it does not, so users are equally hard.
KNOWN_WORDINGS = ("tap", "press", "click", "open")
NEW_WORDINGS = ("go to", "show me")

DARK_SHARE = 0.4
OWN_LOOK_APPS = 3
BY_NAME_IN_TEN = 7
HABITUAL_CELL_SHARE = 0.6
NEAR_IDENTICAL_SHARE = 0.5
PALETTE_SHIFT = 18
MIN_ICONS = 4
MAX_ICONS = 7
MIN_STEPS = 2
MAX_STEPS = 4

# Separate random streams, so that a change to the draws of styles does not change those of samples.
_STYLE_STREAM = 0
_SAMPLE_STREAM = 1


@dataclass(frozen=True)
class UserStyle:
    """The look of one user's phone, and the user's wordings.

    ``looks`` and ``cells`` give each app its (colour, shape) and habitual (column, row); ``palette`` gives
    each colour name its painted RGB; ``half_size`` is in pixels.
    """

    background: Rgb
    palette: dict[str, Rgb]
    half_size: int
    looks: dict[str, tuple[str, str]]
    cells: dict[str, tuple[int, int]]
    wordings: tuple[str, str]


@dataclass(frozen=True)
class Step:
    """One command of a user: on ``screen``, do something with ``target``.

    ``episode`` counts the user's episodes from 0, ``step`` the commands within the episode.
    """

    episode: int
    step: int
    screen: Screen
    target: Icon
    command: str


def user_style(seed: int, user: int) -> UserStyle:
    """Return the style of ``user`` (a non-negative id) in the dataset drawn from ``seed``."""
    rng = np.random.default_rng([seed, user, _STYLE_STREAM])
    brightness = int(rng.integers(25, 70) if rng.random() < DARK_SHARE else rng.integers(190, 251))
    return UserStyle(
        background=jittered_colour((brightness, brightness, brightness), PALETTE_SHIFT, rng),
        palette={name: jittered_colour(rgb, PALETTE_SHIFT, rng) for name, rgb in COLOURS.items()},
        half_size=int(rng.integers(MIN_HALF_SIZE, MAX_HALF_SIZE + 1)),
        looks=_looks_with_own(rng),
        cells=_habitual_cells(rng),
        wordings=(str(rng.choice(KNOWN_WORDINGS)), str(rng.choice(NEW_WORDINGS))),
    )


def _looks_with_own(rng: np.random.Generator) -> dict[str, tuple[str, str]]:
    """Return the looks of all apps; `OWN_LOOK_APPS` apps get one that no app usually has, so looks stay distinct."""
    free = [look for look in LOOKS if look not in APPS.values()]
    apps = rng.choice(list(APPS), OWN_LOOK_APPS, replace=False).tolist()
    own = rng.choice(len(free), OWN_LOOK_APPS, replace=False).tolist()
    return APPS | {app: free[index] for app, index in zip(apps, own, strict=True)}


def _habitual_cells(rng: np.random.Generator) -> dict[str, tuple[int, int]]:
    cells = rng.permutation(COLUMNS * ROWS).tolist()
    return {app: (cell % COLUMNS, cell // COLUMNS) for app, cell in zip(APPS, cells, strict=False)}


def user_steps(seed: int, user: int, count: int) -> list[Step]:
    """Return the first ``count`` commands of ``user``.

    An episode has 2-4 commands about one screen or near-identical ones. Exactly 7 of every 10 commands name the app,
    the others describe its look, so users are about equally hard. A larger ``count`` continues the same sequence.
    """
    style = user_style(seed, user)
    rng = np.random.default_rng([seed, user, _SAMPLE_STREAM])
    names = _by_name(rng)
    steps: list[Step] = []
    episode = 0
    while len(steps) < count:
        apps = rng.choice(list(APPS), int(rng.integers(MIN_ICONS, MAX_ICONS + 1)), replace=False).tolist()
        screen = _user_screen(style, apps, rng)
        targets = rng.permutation(len(apps))[: int(rng.integers(MIN_STEPS, MAX_STEPS + 1))].tolist()
        for step, index in enumerate(targets):
            if step > 0 and rng.random() < NEAR_IDENTICAL_SHARE:
                screen = nudged(screen, rng)
            target = screen.icons[index]
            thing = apps[index] if next(names) else f"the {target.look}"
            steps.append(Step(episode, step, screen, target, f"{rng.choice(style.wordings)} {thing}"))
        episode += 1
    return steps[:count]


def _by_name(rng: np.random.Generator) -> Iterator[bool]:
    while True:
        yield from (rng.permutation(10) < BY_NAME_IN_TEN).tolist()


def _user_screen(style: UserStyle, apps: list[str], rng: np.random.Generator) -> Screen:
    """Return a screen with ``apps`` as its icons, in this order, most of them in the user's habitual cells."""
    free = [(index % COLUMNS, index // COLUMNS) for index in range(COLUMNS * ROWS)]
    icons = []
    for app in apps:
        cell = style.cells[app]
        if cell not in free or rng.random() >= HABITUAL_CELL_SHARE:
            cell = free[int(rng.integers(len(free)))]
        free.remove(cell)
        look = style.looks[app]
        icons.append(place_icon(look, cell, style.palette[look[0]], style.half_size, rng))
    return Screen(tuple(icons), style.background)
