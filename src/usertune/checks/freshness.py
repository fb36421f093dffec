"""Freshness of results when jobs are planned: which are valid, and why others are made again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from usertune.checks.elsewhere import changes_since
from usertune.checks.sources import base_model_state, raw_data_of
from usertune.checks.upstream import not_made_from_upstream
from usertune.core.errors import UserError
from usertune.core.hashing import KEPT_STEPS, canonical_json, digest
from usertune.data.folds import FoldSettings, folds_of
from usertune.data.samples import read_user, request_digest
from usertune.models.base_folder import from_record, is_local
from usertune.pipeline import steps
from usertune.pipeline.layout import Finding, read_checked, results_of
from usertune.pipeline.recipe_changes import recipe_changes
from usertune.pipeline.recipes import Recipes
from usertune.study.schema.study import Study
from usertune.training.kept_files import missing_in


class Freshness:
    """The current state of a study's results; each is inspected once, on first use.

    Args:
        study: the study; its ``results`` is the folder to inspect.
        recipes: the current recipes.
    """

    def __init__(self, study: Study, recipes: Recipes) -> None:
        self.study = study
        self.folder = Path(study.results)
        self.results = results_of(study, recipes)
        self.raw_data = raw_data_of(study)
        self._holds: dict[str, bool] = {}
        self._valid: dict[str, bool] = {}
        self._inspected: dict[str, tuple[dict[str, Any], None] | tuple[None, Finding]] = {}
        self._requests: dict[tuple[str, FoldSettings | None], list[tuple[int, str]]] = {}

    def inspect(self, path: str) -> tuple[dict[str, Any], None] | tuple[None, Finding]:
        """Return the manifest at a path of `results` and None, or None and its problem."""
        if path not in self._inspected:
            self._inspected[path] = read_checked(self.folder, self.results[path])
        return self._inspected[path]

    def requests(self, path: str, folds: FoldSettings | None = None) -> list[tuple[int, str]]:
        """Return fold and request digest of each of a user's samples.

        Args:
            path: path of the manifest of the samples.
            folds: how they are cut into folds; None for no folds, whose number is 0.

        Raises:
            UserError: the samples are missing or do not match the manifest.
        """
        if (path, folds) not in self._requests:
            samples = read_user(self.folder / path)[1]
            fold_of = folds_of(samples, folds) if folds else {}
            self._requests[path, folds] = [(fold_of.get(sample["id"], 0), request_digest(sample)) for sample in samples]
        return self._requests[path, folds]

    def recipe(self, path: str) -> str:
        """Return the recipe of a result as canonical JSON, for the ``params`` of its rule.

        For a damaged result, the key ``rebuild`` makes Snakemake run the job. The new result keeps the key, so the
        recipe does not change again. The key is not part of the fingerprint.
        """
        recipe = dict(self.results[path].recipe)
        manifest, finding = self.inspect(path)
        if manifest is not None and self.results[path].step == steps.TRAIN.name:
            recipe = _with_recorded_steps(recipe, manifest)
        if manifest is not None:
            rebuild = manifest.get("recipe", {}).get("rebuild")
        elif finding and (self.folder / path).exists():
            damaged = self.folder / finding.path
            state = [damaged.stat().st_size, damaged.stat().st_mtime_ns] if damaged.exists() else None
            rebuild = digest([finding.path, finding.reason, state, (self.folder / path).stat().st_mtime_ns])[:16]
        else:
            rebuild = None
        return canonical_json(recipe if rebuild is None else {**recipe, "rebuild": rebuild})

    def reasons(self, path: str, look_at_sources: bool = True) -> Iterator[str]:
        """Yield why a result would be made again, regardless of its inputs.

        Args:
            path: path of its manifest.
            look_at_sources: whether to check raw data and base model too, which is slow.
        """
        result = self.results[path]
        manifest, finding = self.inspect(path)
        if manifest is None:
            if finding is None or not (self.folder / path).exists():
                yield "it does not exist yet"
            else:
                # All results of another release share one reason.
                yield finding.reason if finding.kind == "outdated" else f"{finding.path}: {finding.reason}"
            return
        yield from recipe_changes(manifest.get("recipe", {}), result.recipe)
        if result.step == steps.TRAIN.name and (missing := missing_in(manifest, result.recipe.get(KEPT_STEPS, ()))):
            yield f"the weights of {_named_steps(missing)} were not kept"
        provenance = result.recipe.get("provenance")
        if provenance and manifest.get("recipe", {}).get("provenance") != provenance:
            yield "rerun.on_code_change is set, and it was not yet compared with the current code and packages"
        if not look_at_sources:
            return
        if result.step == steps.PREPARE.name and self.raw_data.state(result.users[0]) != manifest["sources_state"]:
            yield "bytes, sizes or times of its raw data changed since they were prepared"
        yield from changes_since(self.study, result, manifest, self.folder / path)
        if result.step == steps.BASE_MODEL.name and is_local(self.study.base_model.path):
            if base_model_state(self.study) != digest(manifest["model_state"]):
                yield "sizes or times of the base model's files changed since they were read"
            recorded = from_record(manifest["folder"], self.folder / path)
            if recorded.resolve() != Path(self.study.base_model.path).expanduser().resolve():
                yield "the base model is in another folder now"

    def not_from_upstream(self, path: str) -> Iterator[str]:
        """Yield how a result with the current recipe does not match its inputs, as the audit does."""
        result = self.results[path]
        inspected = {name: self.inspect(name)[0] for name in (path, *result.upstream)}
        manifests = {name: manifest for name, manifest in inspected.items() if manifest is not None}
        if path in manifests and not recipe_changes(manifests[path].get("recipe", {}), result.recipe):
            yield from not_made_from_upstream(result, manifests)

    def to_repair(self) -> list[str]:
        """Return the manifests of existing results that are not valid.

        Snakemake's own records are not enough: after ``--touch``, or without records, it considers them valid.
        """
        return [path for path in self.results if (self.folder / path).exists() and not self._is_valid(path)]

    def holds(self, path: str) -> bool:
        """Whether a result and everything upstream of it exist and would not be made again."""
        if path not in self._holds:
            self._holds[path] = self._is_valid(path) and all(map(self.holds, self.results[path].upstream))
        return self._holds[path]

    def _is_valid(self, path: str) -> bool:
        if path not in self._valid:
            try:
                reason = next(chain(self.reasons(path), self.not_from_upstream(path)), None)
                self._valid[path] = reason is None
            except (KeyError, TypeError, ValueError, OSError, UserError):
                # Made by another release of usertune, or its source is missing.
                self._valid[path] = False
        return self._valid[path]


def _with_recorded_steps(recipe: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of a training with the steps that it kept, if these are all that the study wants.

    A step that the study no longer wants starts no job.
    """
    if missing_in(manifest, recipe.get(KEPT_STEPS, ())):
        return recipe
    recorded = manifest.get("recipe", {}).get(KEPT_STEPS)
    others = {key: value for key, value in recipe.items() if key != KEPT_STEPS}
    return others | ({KEPT_STEPS: recorded} if recorded else {})


def _named_steps(numbers: list[int]) -> str:
    return f"step{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
