"""The style of experiments: colours, markers and dashes, the same in every figure and in the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import cos, pi, sin, sqrt

from usertune.evaluation.recipe import ComparisonDesign

# Okabe & Ito (2008), "Color Universal Design", without the yellow, which is too pale on white. Neighbours
# in the list also differ in lightness, so they remain distinct in greyscale print.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
BASELINE_COLOUR = "#5f6672"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SCALES = {"s": 0.95, "^": 1.1, "D": 0.9, "v": 1.1, "P": 1.2, "X": 1.2, "*": 1.6}
# A plus whose arms are 0.8 wide and reach to 1.2, and a star with its tips at 1.4 and its notches at 0.6.
_PLUS = (
    *((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4)),
    *((0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
)
_STAR = tuple(
    (reach * sin(pi * corner / 5), -reach * cos(pi * corner / 5))
    for corner, reach in ((corner, (1.4, 0.6)[corner % 2]) for corner in range(10))
)
# Marker -> its corners, for the page and its pictures; in multiples of the radius, y downwards. Others are circles.
OUTLINES: Mapping[str, tuple[tuple[float, float], ...]] = {
    "s": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "^": ((0, -1.1), (1, 0.8), (-1, 0.8)),
    "D": ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)),
    "v": ((0, 1.1), (1, -0.8), (-1, -0.8)),
    "P": _PLUS,
    "X": tuple((round((x - y) * sqrt(0.5), 3), round((x + y) * sqrt(0.5), 3)) for x, y in _PLUS),
    "*": tuple((round(x, 3), round(y, 3)) for x, y in _STAR),
}
DASHES = ((0.0, ()), (0.0, (7.0, 1.5)), (0.0, (2.0, 1.0)), (0.0, (6.0, 1.5, 1.5, 1.5)))


@dataclass(frozen=True)
class Style:
    """How one experiment is drawn; marker and dashes identify it without colour."""

    colour: str
    marker: str
    dashes: tuple[float, tuple[float, ...]]

    @property
    def outline(self) -> tuple[tuple[float, float], ...]:
        """The corners of its marker, see `OUTLINES`; empty for a circle."""
        return OUTLINES.get(self.marker, ())

    @property
    def scale(self) -> float:
        """How much larger the marker is drawn than a circle, so that all cover about as much."""
        return SCALES.get(self.marker, 1.0)


def styles(design: ComparisonDesign, colours: Mapping[str, str] | None = None) -> dict[str, Style]:
    """Return the style of every experiment: the baseline is grey, the others take the palette in order.

    Experiments of a group that differ by the seed alone share a style.

    Args:
        design: the experiments, in the study's order.
        colours: colours that replace the standard ones, as experiment -> ``#rrggbb``.
    """
    own = colours or {}
    found: dict[str, Style] = {}
    coloured = 0
    # Seeds of one setting share a style.
    alike: dict[str, str] = {}
    for settings in design.groups.values():
        alike |= {name: names[0] for names in settings.values() for name in names}
    index = 0
    for name in design.names:
        if (first := alike.get(name, name)) in found:
            found[name] = replace(found[first], colour=own.get(name, found[first].colour))
            continue
        colour = BASELINE_COLOUR
        if name != design.baseline:
            colour = PALETTE[coloured % len(PALETTE)]
            coloured += 1
        # Dashes go one further with each round of markers, so that many experiments have a style of their own.
        dashes = DASHES[(index + index // len(MARKERS)) % len(DASHES)]
        found[name] = Style(own.get(name, colour), MARKERS[index % len(MARKERS)], dashes)
        index += 1
    return found
