"""The prediction jobs of a run that may answer for each other on one loaded base model."""

from __future__ import annotations

from collections.abc import Sequence

from usertune.checks.freshness import Freshness
from usertune.inference.models_in_use import START, WEIGHTS
from usertune.inference.other_jobs import OtherJob, SharedBase
from usertune.inference.recipe import PredictRecipe
from usertune.pipeline import steps, targets
from usertune.pipeline.layout import Result


def jobs_that_share(freshness: Freshness, asked: Sequence[str]) -> SharedBase:
    """Return the prediction jobs that a run makes and that can share a base model.

    A job that the run does not make is not among them: nobody asked for its answers, or they are in its predictions.

    Args:
        freshness: state of the study's results when jobs are planned.
        asked: targets of the run; none means everything.
    """
    study, results = freshness.study, freshness.results
    needed = targets.needed(study, results, asked)
    made = [
        result
        for path, result in results.items()
        if result.step == steps.PREDICT.name and path in needed and not freshness.holds(path)
    ]
    groups = [[result for result in made if result.experiment in names] for names in study.sharing]
    return SharedBase(
        groups=tuple(tuple(_job(study.results, result) for result in group) for group in groups if len(group) > 1)
    )


def _job(folder: str, result: Result) -> OtherJob:
    def paths(role: str) -> tuple[str, ...]:
        return tuple(f"{folder}/{path}" for path in result.inputs.get(role, ()))

    return OtherJob(
        experiment=str(result.experiment),
        recipe=PredictRecipe.model_validate(result.recipe),
        predictions=f"{folder}/{result.manifest}",
        weights=paths(WEIGHTS),
        start=next(iter(paths(START)), None),
        users=paths("samples"),
        context=paths("context"),
    )
