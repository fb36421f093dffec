"""Synthetic phone screens: a grid of coloured icons, commands about them and reference answers.

The origin is at the top left. Points in answers are relative: 0-1000 on each axis.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

# One cell is one visual token of Qwen3-VL (patch 16 x merge 2), so an icon never straddles two tokens.
CELL = 32
COLUMNS = 3
ROWS = 5
WIDTH = COLUMNS * CELL
HEIGHT = ROWS * CELL

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (220, 45, 45),
    "orange": (240, 140, 30),
    "yellow": (235, 215, 50),
    "green": (45, 165, 70),
    "blue": (50, 95, 220),
    "purple": (150, 60, 180),
}
SHAPES = ("circle", "square", "triangle", "cross")
LOOKS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)

# The wordings of commands that the base model learns; users have more (see `styles`).
GENERIC_WORDINGS = ("tap", "press", "click", "open")

RELATIVE_RANGE = 1000
# Rounded coordinates leave a small model few digits to learn: 20 is 1.9 px across, 3.2 px down.
COORDINATE_STEP = 20

PROMPT = "Relative (0-1000) point of the element: {command}"
ANSWER = "```referring\n{content}\n```\n```grounding\n[{x}, {y}]\n```"
_ANSWER_PATTERN = re.compile(r"```referring\n.*\n```\n```grounding\n\[(\d+), (\d+)\]\n```")

MIN_HALF_SIZE = 9
MAX_HALF_SIZE = 11
MAX_JITTER = 3
_COLOUR_JITTER = 12


@dataclass(frozen=True)
class Icon:
    """One icon: its name, position and paint.

    ``column`` and ``row`` count cells from the top left; ``centre_x``, ``centre_y`` and ``half_size``
    are in pixels.
    """

    colour: str
    shape: str
    column: int
    row: int
    centre_x: int
    centre_y: int
    half_size: int
    rgb: Rgb

    @property
    def look(self) -> str:
        """The icon in words, such as ``red circle``."""
        return f"{self.colour} {self.shape}"

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The bounding box (left, top, right, bottom) in pixels, edges included."""
        x, y, half = self.centre_x, self.centre_y, self.half_size
        return x - half, y - half, x + half, y + half

    @property
    def point(self) -> tuple[int, int]:
        """The centre as (x, y), relative 0-1000, rounded to `COORDINATE_STEP`."""
        return _relative(self.centre_x, WIDTH), _relative(self.centre_y, HEIGHT)


@dataclass(frozen=True)
class Screen:
    """A screen of `WIDTH` x `HEIGHT` pixels: icons with distinct looks in distinct cells."""

    icons: tuple[Icon, ...]
    background: Rgb


def _relative(pixels: int, extent: int) -> int:
    return round(pixels / extent * RELATIVE_RANGE / COORDINATE_STEP) * COORDINATE_STEP


def reference_answer(icon: Icon) -> str:
    """Return the correct answer for ``icon``: a referring and a grounding block."""
    x, y = icon.point
    return ANSWER.format(content=icon.look, x=x, y=y)


def parse_point(answer: str) -> tuple[int, int] | None:
    """Return the relative point (x, y) of an answer in exactly the reference format, otherwise None."""
    match = _ANSWER_PATTERN.fullmatch(answer)
    return (int(match[1]), int(match[2])) if match else None


def jittered_colour(rgb: Rgb, amount: int, rng: np.random.Generator) -> Rgb:
    """Return ``rgb`` with each channel moved by at most ``amount`` and kept within 0-255."""
    red, green, blue = np.clip(np.array(rgb) + rng.integers(-amount, amount + 1, 3), 0, 255).tolist()
    return red, green, blue


def place_icon(
    look: tuple[str, str], cell: tuple[int, int], rgb: Rgb, half_size: int, rng: np.random.Generator
) -> Icon:
    """Return an icon with ``look`` (colour, shape) near the middle of ``cell`` (column, row)."""
    column, row = cell
    jitter_x, jitter_y = rng.integers(-MAX_JITTER, MAX_JITTER + 1, 2).tolist()
    return Icon(
        colour=look[0],
        shape=look[1],
        column=column,
        row=row,
        centre_x=column * CELL + CELL // 2 + jitter_x,
        centre_y=row * CELL + CELL // 2 + jitter_y,
        half_size=half_size,
        rgb=rgb,
    )


def nudged(screen: Screen, rng: np.random.Generator) -> Screen:
    """Return a near-identical screen: the same icons in the same cells, moved by a few pixels."""
    icons = (
        place_icon((icon.colour, icon.shape), (icon.column, icon.row), icon.rgb, icon.half_size, rng)
        for icon in screen.icons
    )
    return replace(screen, icons=tuple(icons))


def generic_screen(icon_count: int, rng: np.random.Generator) -> Screen:
    """Return a screen of ``icon_count`` icons in no user's style: random background, palette and layout."""
    looks = rng.choice(len(LOOKS), icon_count, replace=False)
    cells = rng.choice(COLUMNS * ROWS, icon_count, replace=False)
    brightness = int(rng.integers(25, 251))
    background = jittered_colour((brightness, brightness, brightness), 2 * _COLOUR_JITTER, rng)
    icons = []
    for look_index, cell in zip(looks.tolist(), cells.tolist(), strict=True):
        look = LOOKS[look_index]
        rgb = jittered_colour(COLOURS[look[0]], 2 * _COLOUR_JITTER, rng)
        half_size = int(rng.integers(MIN_HALF_SIZE, MAX_HALF_SIZE + 1))
        icons.append(place_icon(look, (cell % COLUMNS, cell // COLUMNS), rgb, half_size, rng))
    return Screen(tuple(icons), background)


def generic_command(icon: Icon, rng: np.random.Generator) -> str:
    """Return a command that describes ``icon`` by its look, in one of the `GENERIC_WORDINGS`."""
    return f"{rng.choice(GENERIC_WORDINGS)} the {icon.look}"


def draw_screen(screen: Screen) -> Image.Image:
    """Return ``screen`` as an RGB image of `WIDTH` x `HEIGHT` pixels."""
    image = Image.new("RGB", (WIDTH, HEIGHT), screen.background)
    pen = ImageDraw.Draw(image)
    for icon in screen.icons:
        _draw_icon(pen, icon)
    return image


def _draw_icon(pen: ImageDraw.ImageDraw, icon: Icon) -> None:
    left, top, right, bottom = icon.box
    if icon.shape == "circle":
        pen.ellipse(icon.box, fill=icon.rgb)
    elif icon.shape == "square":
        pen.rectangle(icon.box, fill=icon.rgb)
    elif icon.shape == "triangle":
        pen.polygon([(left, bottom), (icon.centre_x, top), (right, bottom)], fill=icon.rgb)
    else:
        arm = icon.half_size // 3
        pen.rectangle((left, icon.centre_y - arm, right, icon.centre_y + arm), fill=icon.rgb)
        pen.rectangle((icon.centre_x - arm, top, icon.centre_x + arm, bottom), fill=icon.rgb)
