"""The catalogue of figures. One line here adds the figure of a new module (docs/extending.md)."""

from __future__ import annotations

from usertune.core.catalogue import Catalogue

FIGURES = Catalogue(
    "figure",
    {
        "accuracy_by_user": "usertune.reporting.figures.accuracy_by_user:draw",
        "paired_gains": "usertune.reporting.figures.paired_gains:draw",
        "distance_distribution": "usertune.reporting.figures.distance_distribution:draw",
        "accuracy_heat_map": "usertune.reporting.figures.accuracy_heat_map:draw",
        "gain_by_samples": "usertune.reporting.figures.gain_by_samples:draw",
        "error_map": "usertune.reporting.figures.error_map:draw",
        "cost_against_accuracy": "usertune.reporting.figures.cost_against_accuracy:draw",
        "loss_curves": "usertune.reporting.figures.loss_curves:draw",
    },
)
