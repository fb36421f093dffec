"""The figures that a study has: those that apply to it and that it does not switch off.

Those that read costs are drawn by the report, which writes these; the others by a step each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from usertune.reporting.figures.catalogue import FIGURES
from usertune.study.schema.study import Study
from usertune.tasks.catalogue import get_task


def _asks_for_clicks(study: Study) -> bool:
    return any(get_task(task).asks_for_clicks for task in (study.dataset.task, *study.evaluation.further_tasks))


def _compares(study: Study) -> bool:
    return len(study.experiments) > 1


def _trains(study: Study) -> bool:
    return any(experiment.trained or experiment.trained_on_folds for experiment in study.experiments.values())


# What a figure can name in ``NEEDS`` -> whether a study has it.
NEEDS: Mapping[str, Callable[[Study], bool]] = {
    "points": _asks_for_clicks,
    "comparisons": _compares,
    "trainings": _trains,
}


def figures_of(study: Study) -> tuple[str, ...]:
    """Return the names of the figures that the step of figures makes of a study, in the order of the catalogue.

    Raises:
        ValueError: see `figures_of_report`.
    """
    return tuple(name for name in _applying(study) if not reads(name, "costs"))


def figures_of_report(study: Study) -> tuple[str, ...]:
    """Return the names of the figures that the report draws of a study.

    Raises:
        ValueError: a figure needs something that is not in `NEEDS`.
    """
    return tuple(name for name in _applying(study) if reads(name, "costs"))


def reads(name: str, what: str) -> bool:
    """Return whether a figure reads ``what`` (``training_logs`` or ``costs``) besides the tables of the comparison."""
    return what in FIGURES.constant(name, "READS")


def _applying(study: Study) -> tuple[str, ...]:
    """Return the names of the figures that apply to a study and that it does not switch off.

    The others do not apply to it, such as maps of points to a task without points.
    """
    needs = {name: FIGURES.constant(name, "NEEDS") for name in FIGURES}
    for name, needed in needs.items():
        if unknown := set(needed) - NEEDS.keys():
            raise ValueError(f"{FIGURES.module(name)}: NEEDS has {sorted(unknown)}; use some of {', '.join(NEEDS)}")
    settings = study.report.figures
    return tuple(
        name
        for name, needed in needs.items()
        if getattr(settings, name).draw and all(NEEDS[need](study) for need in needed)
    )
