"""Answers that are already in the store when jobs are planned."""

from __future__ import annotations

from pathlib import Path

from usertune.checks.freshness import Freshness
from usertune.core.manifest import read_manifest
from usertune.data.samples import read_user
from usertune.inference.context import asked_as
from usertune.inference.models_in_use import START, WEIGHTS, Found, ModelsInUse, models_in_use
from usertune.inference.recipe import PredictRecipe
from usertune.inference.stored_answers import Asked, StoredAnswers, asked
from usertune.pipeline import steps
from usertune.pipeline.layout import Result


def count_stored(freshness: Freshness, result: Result, user_manifest: str) -> tuple[int, int]:
    """Count the answers of one user that a prediction job needs.

    Args:
        freshness: current state of the study's results; the inputs of the job exist.
        result: the predictions.
        user_manifest: path of the manifest of the user's data, an input of ``result``.

    Returns:
        Number of stored and of missing answers.
    """
    folder = freshness.folder

    def found(role: str) -> list[Found]:
        paths = result.inputs.get(role, ())
        return [Found(folder / path, freshness.inspect(path)[0] or read_manifest(folder / path)) for path in paths]

    (base,) = found(steps.BASE_MODEL.name)
    recipe = PredictRecipe.model_validate(result.recipe)
    models = models_in_use(base, found(WEIGHTS), next(iter(found(START)), None), recipe.adapters)
    stores = StoredAnswers(folder / "store" / "predictions", recipe, models)
    manifest = freshness.inspect(user_manifest)[0] or read_manifest(folder / user_manifest)
    user = manifest["user"]
    stored = stores.read((key, user) for key in models.keys_of(user))
    # Planning does not read tens of thousands of samples where nothing is stored.
    if not stored:
        return 0, manifest["samples"]
    own = models.folds_of_user(user)
    if recipe.context is not None:
        wanted = _with_context(folder, result, recipe, models, Found(folder / user_manifest, manifest))
    elif own is None:
        wanted = [("", user, request) for _, request in freshness.requests(user_manifest)]
    else:
        wanted = [(own.key(fold), user, request) for fold, request in freshness.requests(user_manifest, own.settings)]
    count = sum(one in stored for one in wanted)
    return count, manifest["samples"] - count


def _with_context(folder: Path, result: Result, recipe: PredictRecipe, models: ModelsInUse, data: Found) -> list[Asked]:
    """Return what the answers to a user's samples are found by, if these are asked with a context."""
    others = {}
    for path in result.inputs["context"]:
        other, samples = read_user(folder / path)
        others[other["user"]] = other, samples
    manifest, samples = read_user(data.path)
    return [asked(one) for one in models.questions(asked_as(samples, recipe, manifest["user"], others), data)]


def only_to_collect(freshness: Freshness) -> list[Result]:
    """Return missing or invalid predictions with all answers in the store.

    They occur after a change of ``evaluation.users_per_job`` or of the test users, which groups users differently.
    """
    return [
        result
        for path, result in freshness.results.items()
        if result.step == steps.PREDICT.name
        and freshness.study.experiments[str(result.experiment)].generated
        and not freshness.holds(path)
        and all(freshness.holds(above) for above in result.upstream)
        and not any(count_stored(freshness, result, samples)[1] for samples in result.inputs["samples"])
    ]
