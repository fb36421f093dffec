"""The result of each experiment as soon as all its test users are scored, long before the comparison of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from rich.text import Text

from usertune.checks.freshness import Freshness
from usertune.core.formatting import printable
from usertune.core.manifest import read_manifest
from usertune.evaluation.recipe import CompareRecipe
from usertune.pipeline import steps
from usertune.pipeline.layout import comparison_path, results_of
from usertune.pipeline.recipes import Recipes
from usertune.study.schema.study import Study


class FirstResults:
    """The primary metric of experiments while a run goes on.

    Args:
        study: the study that is run.
        recipes: its recipes.
    """

    def __init__(self, study: Study, recipes: Recipes) -> None:
        self._study, self._recipes = study, recipes
        results = results_of(study, recipes)
        self._primary = CompareRecipe.model_validate(results[comparison_path(study)].recipe).metrics[0]
        test = set(study.users.test)
        self._scores: dict[str, list[str]] = {}
        for path, result in results.items():
            if result.step == steps.SCORE.name and set(result.users) <= test:
                self._scores.setdefault(str(result.experiment), []).append(path)
        # For each experiment, the scores that are not there yet, and since when they must have been written.
        self._waiting = {name: (list(paths), 0.0) for name, paths in self._scores.items()}

    def after(self, experiment: str) -> Iterator[Text]:
        """Yield the result of an experiment after a scoring job of it, if all its scores are there and up to date."""
        waiting, since = self._waiting.get(experiment, ([], 0.0))
        # Each score is looked for until it is there: a study can have a job for each of ten thousand users.
        while waiting and self._written(waiting[-1], since):
            waiting.pop()
        if waiting or experiment not in self._waiting:
            return
        freshness = Freshness(self._study, self._recipes)
        if stale := [path for path in self._scores[experiment] if not freshness.holds(path)]:
            # Of an earlier run; this one writes them again.
            newest = max(map(self._time, stale))
            self._waiting[experiment] = stale, newest
            return
        del self._waiting[experiment]
        values = [self._primary.of(read_manifest(self._path(path))) for path in self._scores[experiment]]
        found = [value for value in values if value is not None]
        text = self._primary.text(fmean(found) if found else None)
        users = f"{len(found)} test user{'s' * (len(found) != 1)}"
        yield Text(f"{printable(experiment)}: {self._primary.heading} {text}, the mean of {users}", style="bold")

    def _written(self, path: str, since: float) -> bool:
        return self._path(path).exists() and self._time(path) > since

    def _time(self, path: str) -> float:
        return self._path(path).stat().st_mtime

    def _path(self, path: str) -> Path:
        return Path(self._study.results, path)
