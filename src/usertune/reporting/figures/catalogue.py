"""The catalogue of figures. One line here adds the figure of a new module (docs/extending.md)."""

from __future__ import annotations

from usertune.core.catalogue import Catalogue

FIGURES = Catalogue(
    "figure",
    {
        "accuracy_by_user": "usertune.reporting.figures.accuracy_by_user:draw",
        "distance_distribution": "usertune.reporting.figures.distance_distribution:draw",
        "loss_curves": "usertune.reporting.figures.loss_curves:draw",
    },
)
