"""The plug-ins that a study chose, and the code version of each step with them."""

from __future__ import annotations

from pathlib import Path

from usertune.core import step_names as names
from usertune.core.errors import UserError
from usertune.core.manifest import read_manifest
from usertune.data.readers.catalogue import READERS
from usertune.inference.engines.catalogue import ENGINES
from usertune.models.families.catalogue import module_here, recorded_module
from usertune.pipeline import steps
from usertune.pipeline.figures_of_study import figures_of_report
from usertune.reporting.figures.catalogue import FIGURES
from usertune.runtime.code_version import code_version
from usertune.study.schema.study import Study
from usertune.tasks.catalogue import TASKS


def current_code(study: Study) -> dict[str, str]:
    """Return the current code version of every step (with the plug-ins that the study chose) and every figure."""
    return {name: code_version(step, plug_ins) for name, (step, plug_ins) in chosen_plug_ins(study).items()}


def chosen_plug_ins(study: Study) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the step and the plug-in modules for each code version: one per step, and one per figure."""
    reader, task = READERS.module(study.dataset.format), TASKS.module(study.dataset.task)
    tasks = (task, *(TASKS.module(further) for further in study.evaluation.further_tasks))
    family = _family(study)
    plug_ins = {
        names.PREPARE: (reader, task),
        names.BASE_MODEL: family,
        names.OTHER_WEIGHTS: family,
        names.TRAIN: family,
        names.TRAIN_FOLDS: family,
        names.PREDICT: (ENGINES.module(study.evaluation.engine.kind), *family),
        names.SCORE: tasks,
        names.COMPARE: tasks,
        names.REPORT: (*tasks, *map(FIGURES.module, figures_of_report(study))),
        names.AUDIT: (reader,),
    }
    of_steps = {step: (step, plug_ins.get(step, ())) for step in steps.STEPS if step != names.FIGURE}
    of_engines: dict[str, tuple[str, tuple[str, ...]]] = {
        code_key(study, names.PREDICT, name): (
            (names.PREDICT, (ENGINES.module(study.engine_of(name).kind), *family))
            if experiment.prior is None
            else (names.PRIOR, (task,))
        )
        for name, experiment in study.experiments.items()
    }
    of_figures = {
        f"figure:{name}": (names.FIGURE, (FIGURES.module(name), *tasks))
        for name in FIGURES
        if name not in steps.OF_COSTS
    }
    return of_steps | of_engines | of_figures


def code_key(study: Study, step: str, experiment: str | None) -> str:
    """Return the key of the code version of a step's result in `current_code`.

    Predictions of an experiment with an engine of its own, or without a model, have a version of their own.
    """
    if step != names.PREDICT or experiment is None:
        return step
    if study.experiments[experiment].prior is not None:
        return names.PRIOR
    own, usual = study.engine_of(experiment).kind, study.evaluation.engine.kind
    return step if own == usual else f"{step}:{own}"


def recorded_code(study: Study) -> list[str]:
    """Return the keys of `current_code` for results that record the code they were made with."""
    return list(
        dict.fromkeys(
            code_key(study, step, name) for step in steps.RECORDED_STEPS for name in (None, *study.experiments)
        )
    )


def _family(study: Study) -> tuple[str, ...]:
    """Return the module of the base model's family; empty before anything of the model is on this machine."""
    if found := module_here(study.base_model.path, study.base_model.revision):
        return found
    # A folder that was moved, or a cache of another machine: the results still name the family.
    try:
        return recorded_module(read_manifest(Path(study.results) / steps.BASE_MODEL.manifest))
    except (UserError, OSError):
        return ()
