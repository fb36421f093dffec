"""The style of experiments: colours, markers and dashes, the same in every figure and in the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from usertune.evaluation.recipe import ComparisonDesign

# Okabe & Ito (2008), "Color Universal Design", without the yellow, which is too pale on white. Neighbours
# in the list also differ in lightness, so they remain distinct in greyscale print.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
BASELINE_COLOUR = "#5f6672"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SCALES = {"s": 0.95, "^": 1.1, "D": 0.9, "v": 1.1, "P": 1.2, "X": 1.2, "*": 1.6}
DASHES = ((0.0, ()), (0.0, (7.0, 1.5)), (0.0, (2.0, 1.0)), (0.0, (6.0, 1.5, 1.5, 1.5)))


@dataclass(frozen=True)
class Style:
    """How one experiment is drawn; marker and dashes identify it without colour."""

    colour: str
    marker: str
    dashes: tuple[float, tuple[float, ...]]

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
        found[name] = Style(own.get(name, colour), MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)])
        index += 1
    return found
