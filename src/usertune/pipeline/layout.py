"""The results that a study should have: where each lies, what it is to be made of, and whether it is as it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from usertune.core.errors import UserError
from usertune.core.hashing import digest, digest_file
from usertune.core.manifest import read_result
from usertune.core.users import batch_label
from usertune.evaluation.table_names import MANIFEST, TABLES
from usertune.pipeline.recipes import Recipes
from usertune.study.schema import FIGURE_NAMES, Study

BASE_MODEL = "base_model/manifest.json"
COMPARISON = f"tables/{MANIFEST}"
REPORT = "report.manifest.json"
# Holds a folder for each comparison of other users than the study's.
SUBSETS = "subsets"

Kind = Literal["missing", "stale", "mismatched", "modified"]


@dataclass(frozen=True)
class Finding:
    """Something wrong with a result; ``place`` is relative to the folder of results."""

    kind: Kind
    place: str
    reason: str


@dataclass(frozen=True)
class Result:
    """One result that a study should have. Places are relative to the folder of results.

    Attributes:
        step: the step that makes it.
        label: what people call it, as in "predictions of users 1-5 with lora".
        manifest: its checksummed manifest.
        files: what belongs to it besides.
        recipe: the recipe by which it should have been made.
        upstream: manifests of what it is made from.
        experiment: its experiment, if it has one.
        users: its users, if it has some.
    """

    step: str
    label: str
    manifest: str
    files: tuple[str, ...]
    recipe: Mapping[str, Any]
    upstream: tuple[str, ...]
    experiment: str | None = None
    users: tuple[str, ...] = ()


def audit_place(recipes: Recipes) -> str:
    """Return where the audit of exactly these settings lies: with other settings it is another file.

    So the report, which needs it, cannot be taken for made where the records of the workflow were lost.
    """
    return f"{recipes.study.origin.outcomes}audit/{digest(json.loads(recipes.audit()))[:16]}.json"


def comparison_place(study: Study) -> str:
    """Return where the manifest of the tables lies."""
    return f"{study.origin.outcomes}{COMPARISON}"


def report_place(study: Study) -> str:
    """Return where the manifest of the report lies."""
    return f"{study.origin.outcomes}{REPORT}"


def results_of(study: Study, recipes: Recipes) -> dict[str, Result]:
    """Return every result of a study by its manifest, each after those that it is made from."""
    found = [*_sources(study, recipes)]
    for name in study.experiments:
        found.extend(_experiment(study, recipes, name))
    found.extend(_comparison(study, recipes))
    return {result.manifest: result for result in found}


def needed_for(results: Mapping[str, Result], manifest: str) -> list[str]:
    """Return the manifests of everything that a result is made from and itself, in the order of ``results``."""
    needed = {manifest}
    for place in reversed(list(results)):
        if place in needed:
            needed.update(results[place].upstream)
    return [place for place in results if place in needed]


def read_checked(folder: Path, result: Result) -> tuple[dict[str, Any], None] | tuple[None, Finding]:
    """Read a result's manifest and look whether the result is whole, unchanged, and what its place says.

    Weights are compared by size and time, and by their bytes where only the time differs.

    Returns:
        The manifest, or the first thing that is wrong.
    """
    place = result.manifest
    try:
        manifest = read_result(folder / place)
    except UserError as error:
        kind: Kind = "modified" if (folder / place).exists() else "missing"
        return None, Finding(kind, place, str(error).removeprefix(f"{folder / place}: "))
    labels = {"step": result.step, "experiment": result.experiment}
    wrong = {key: manifest.get(key) for key, value in labels.items() if manifest.get(key) != value}
    if result.users and _users_of(manifest) != result.users:
        wrong["users"] = _users_of(manifest)
    if wrong:
        return None, Finding("mismatched", place, f"it says of itself {json.dumps(wrong)}, and lies in the wrong place")
    try:
        for path, sha256 in _files_of(folder, result, manifest):
            if not path.is_file():
                return None, Finding("missing", path.relative_to(folder).as_posix(), "the file is not there")
            if digest_file(path) != sha256:
                reason = "the file was edited or cut short after it was written"
                return None, Finding("modified", path.relative_to(folder).as_posix(), reason)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return None, Finding("mismatched", place, f"it lacks what such a result holds ({error})")
    return manifest, None


def _users_of(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(manifest["users"]) if "users" in manifest else (str(manifest.get("user")),)


def _files_of(folder: Path, result: Result, manifest: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield the files of a result whose digests are to be looked at, with the recorded digests."""
    for place in result.files:
        yield folder / place, manifest["files"][Path(place).name]
    if result.step == "train":
        weights = (folder / result.manifest).parent / manifest["weights_folder"]
        for name, (size, modified) in manifest["weights_state"].items():
            path = weights / name
            stat = path.stat() if path.is_file() else None
            if stat is None or (stat.st_size, stat.st_mtime_ns) != (size, modified):
                yield path, manifest["weights_files"][name]


def _sources(study: Study, recipes: Recipes) -> Iterator[Result]:
    recipe = json.loads(recipes.prepare())
    for user in study.all_users:
        yield Result(
            "prepare", f"samples of user {user}", _data(user), (f"data/user_{user}.jsonl",), recipe, (), users=(user,)
        )
    yield Result("base_model", "base model", BASE_MODEL, (), json.loads(recipes.base_model()), ())


def _experiment(study: Study, recipes: Recipes, name: str) -> Iterator[Result]:
    trained: tuple[str, ...] = ()
    if study.experiments[name].trained:
        trained = (f"checkpoints/{name}/manifest.json",)
        upstream = (BASE_MODEL, *map(_data, study.users.train), *map(_data, study.users.validation))
        files = (f"checkpoints/{name}/training_log.csv",)
        yield Result("train", f"training of {name}", trained[0], files, json.loads(recipes.train(name)), upstream, name)
    predict, score = json.loads(recipes.predict(name)), json.loads(recipes.score(name))
    for users in study.test_batches:
        label = batch_label(users)
        place = f"predictions/{name}/users_{label}.json"
        upstream = (BASE_MODEL, *trained, *map(_data, users))
        yield Result("predict", f"predictions of users {label} with {name}", place, (), predict, upstream, name, users)
        for user in users:
            yield Result(
                step="score",
                label=f"scores of user {user} with {name}",
                manifest=f"scores/{name}/user_{user}.json",
                files=(f"scores/{name}/user_{user}.csv",),
                recipe=score,
                upstream=(_data(user), place),
                experiment=name,
                users=(user,),
            )


def _comparison(study: Study, recipes: Recipes) -> Iterator[Result]:
    folder, tables = study.origin.outcomes, comparison_place(study)
    scores = tuple(f"scores/{name}/user_{user}.json" for name in study.experiments for user in study.users.test)
    files = tuple(f"{folder}tables/{name}" for name in TABLES)
    yield Result("compare", "tables", tables, files, json.loads(recipes.compare()), scores)
    trained = tuple(
        f"checkpoints/{name}/manifest.json" for name in study.experiments if study.experiments[name].trained
    )
    for name in FIGURE_NAMES:
        upstream = (tables, *(trained if name == "loss_curves" else ()))
        place = f"{folder}figures/{name}"
        recipe = json.loads(recipes.figure(name))
        yield Result(
            "figure", f"figure {name}", f"{place}.manifest.json", (f"{place}.svg", f"{place}.png"), recipe, upstream
        )
    figures = tuple(f"{folder}figures/{name}.manifest.json" for name in FIGURE_NAMES)
    audit = audit_place(recipes)
    yield Result("audit", "audit", audit, (), json.loads(recipes.audit()), (tables, *figures))
    files = (f"{folder}report.html", f"{folder}study.yaml", f"{folder}provenance.json")
    report = report_place(study)
    data = tuple(map(_data, study.all_users))
    yield Result("report", "report", report, files, json.loads(recipes.report()), (audit, tables, *figures, *data))


def _data(user: str) -> str:
    return f"data/user_{user}.manifest.json"
