"""The catalogue of figures: name to module. One line adds a figure, which is then drawn, audited and reported."""

from __future__ import annotations

# Dotted paths, so that nothing here imports a figure: a figure's code version must not follow the others' modules.
FIGURES = {
    "accuracy_by_user": "usertune.reporting.figures.accuracy_by_user",
    "distance_distribution": "usertune.reporting.figures.distance_distribution",
    "loss_curves": "usertune.reporting.figures.loss_curves",
}
