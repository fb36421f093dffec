"""The results that a study should have: paths, inputs and integrity checks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from usertune.core.errors import UserError
from usertune.core.hashing import digest_file
from usertune.core.manifest import FORMAT, OLD_FORMAT, read_result
from usertune.core.users import batch_label
from usertune.data.image_store import recorded_digest
from usertune.pipeline import steps
from usertune.pipeline.recipes import Recipes
from usertune.pipeline.step import Input, Item, Step
from usertune.study.schema.study import Study

Kind = Literal["missing", "outdated", "stale", "mismatched", "modified"]


@dataclass(frozen=True)
class Finding:
    """A problem with a result; ``path`` is relative to the results folder."""

    kind: Kind
    path: str
    reason: str


@dataclass(frozen=True)
class Result:
    """One result that a study should have. Paths are relative to the results folder.

    Attributes:
        step: name of the step that makes it.
        label: name for people, such as "predictions of users 1-5 with lora".
        doing: what its job does, such as "predicting lora, users 1-5".
        manifest: path of its checksummed manifest.
        files: paths of its other files.
        log: path of its job's log.
        recipe: the current recipe.
        inputs: role -> manifests of its inputs.
        item: its experiment, users or figure.
    """

    step: str
    label: str
    doing: str
    manifest: str
    files: tuple[str, ...]
    log: str
    recipe: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, ...]]
    item: Item

    @property
    def upstream(self) -> tuple[str, ...]:
        """Manifests of all its inputs."""
        return tuple(chain.from_iterable(self.inputs.values()))

    @property
    def wildcards(self) -> dict[str, str]:
        """Wildcards of its job."""
        values = self.item.values
        return {name: values[name] for name in steps.STEPS[self.step].wildcards}

    @property
    def name(self) -> str:
        """Its name among several results of one role, see `usertune.core.manifest.name_among_inputs`."""
        users = [batch_label(self.users)] if self.users else []
        return " ".join(filter(None, [self.experiment, *users, self.item.figure]))

    @property
    def experiment(self) -> str | None:
        """Its experiment, if any."""
        return self.item.experiment

    @property
    def users(self) -> tuple[str, ...]:
        """Its users, if any."""
        return self.item.users


def settings_of(recipes: Recipes) -> str:
    """Return the digest of the settings in the file name of the audit."""
    return recipes.settings_digest[:16]


def audit_path(recipes: Recipes) -> str:
    """Return the path of the audit for these settings."""
    return recipes.study.origin.outcomes + steps.AUDIT.manifest.format(settings=settings_of(recipes))


def comparison_path(study: Study) -> str:
    """Return the path of the manifest of the tables."""
    return study.origin.outcomes + steps.COMPARE.manifest


def report_path(study: Study) -> str:
    """Return the path of the manifest of the report."""
    return study.origin.outcomes + steps.REPORT.manifest


def results_of(study: Study, recipes: Recipes) -> dict[str, Result]:
    """Return ``{manifest path: result}`` for all results of a study; inputs come before results made from them."""

    @cache
    def recipe(step: str, *of_what: str) -> dict[str, Any]:
        # `Recipes` has a method for each step name.
        found: dict[str, Any] = json.loads(getattr(recipes, step)(*of_what))
        return found

    audit = audit_path(recipes)
    results: dict[str, Result] = {}
    made: dict[str, _Made] = {}
    for step in steps.STEPS.values():
        folder = study.origin.outcomes if step.of_comparison else ""
        made[step.name] = _Made()
        for item in step.items(study):
            values = item.values
            result = Result(
                step=step.name,
                label=step.label.format(**values),
                doing=(step.doing or step.label).format(**values),
                manifest=audit if step is steps.AUDIT else folder + step.manifest.format(**values),
                files=tuple(folder + path.format(**values) for path in step.files_of(study).values()),
                log=folder + step.log.format(**values),
                recipe=recipe(step.name, *filter(None, (item.experiment, item.figure))),
                inputs=_inputs(study, step, item, made),
                item=item,
            )
            results[result.manifest] = result
            made[step.name].add(result)
    return results


class _Made:
    """The results of one step, indexed by experiment and user."""

    def __init__(self) -> None:
        self._found: dict[tuple[str | None, str | None], list[str]] = {}
        self._experiments = self._users = False

    def add(self, result: Result) -> None:
        self._experiments |= result.experiment is not None
        self._users |= bool(result.users)
        for experiment in {result.experiment, None}:
            for user in (*result.users, None):
                self._found.setdefault((experiment, user), []).append(result.manifest)

    def of(self, experiment: str | None, users: Sequence[str]) -> tuple[str, ...]:
        """Return the manifests for an experiment and any of the users; no ``users`` means all."""
        own = experiment if self._experiments else None
        chosen = users if self._users and users else (None,)
        found = chain.from_iterable(self._found.get((own, user), ()) for user in chosen)
        return tuple(dict.fromkeys(found))


def rule_of_folds(experiment: str, users: Sequence[str]) -> str:
    """Return the rule that trains an experiment on the folds of a batch of users.

    Snakemake passes names of rules to jobs on a cluster without quotes, so there is no space in it. A hyphen is in no
    name of an experiment, which is a rule too.
    """
    return f"{steps.TRAIN_FOLDS.name}-{experiment}-users-{batch_label(users)}"


def step_of_rule(rule: str) -> str:
    """Return the name of a rule's step. The rule of a batch of users also names the users."""
    return re.split("[ -]", rule, maxsplit=1)[0]


def experiment_of_rule(rule: str) -> str | None:
    """Return the experiment that the rule of a batch of users names; None if it names none."""
    found = re.fullmatch(r"\w+[ -](\w+)[ -]users[ -].+", rule)
    return found[1] if found else None


def job_of(study: Study, result: Result) -> tuple[str, dict[str, str]]:
    """Return the rule and the wildcards of the job that makes a result."""
    if result.step == steps.TRAIN_FOLDS.name and result.experiment is not None:
        # A training on the folds of all users is a job of its own.
        batches = (result.users,) if len(result.users) > 1 else study.test_batches
        batch = next((users for users in batches if result.users[0] in users), ())
        return rule_of_folds(result.experiment, batch), {}
    return result.step, result.wildcards


def _inputs(study: Study, step: Step, item: Item, made: Mapping[str, _Made]) -> dict[str, tuple[str, ...]]:
    """Return ``{role: manifests}`` of the inputs of a result."""
    found: dict[str, dict[str, None]] = {given.role: {} for given in step.inputs}
    for given in step.inputs:
        if given.figures is not None and item.figure not in given.figures:
            continue
        for experiment, users in _used(study, given, item):
            found[given.role].update(dict.fromkeys(made[given.step].of(experiment, users)))
    return {role: tuple(paths) for role, paths in found.items()}


def _used(study: Study, given: Input, item: Item) -> Iterator[tuple[str | None, Sequence[str]]]:
    """Yield the experiments and users (none means all) of the results that a result uses as one of its inputs."""
    if given.of is not None:
        yield from ((other.experiment, other.users) for other in given.of(study, item))
    elif given.users is None:
        yield item.experiment, item.users
    elif users := given.users(study):
        yield item.experiment, users


def needed_for(results: Mapping[str, Result], manifest: str) -> list[str]:
    """Return the manifests of a result and everything upstream of it, in the order of ``results``."""
    needed = {manifest}
    for path in reversed(list(results)):
        if path in needed:
            needed.update(results[path].upstream)
    return [path for path in results if path in needed]


def read_checked(folder: Path, result: Result) -> tuple[dict[str, Any], None] | tuple[None, Finding]:
    """Read the manifest of a result, and check that its files are complete and unmodified and match its path.

    The checksums of weights are computed only if size or modification time differ from the record, and those of stored
    images only if the size differs: who loads an image checks its bytes.

    Returns:
        The manifest and None, or None and the first problem.
    """
    own = result.manifest
    try:
        manifest = read_result(folder / own)
    except UserError as error:
        kind: Kind = "modified" if (folder / own).exists() else "missing"
        return None, Finding(kind, own, str(error).removeprefix(f"{folder / own}: "))
    if manifest.get("format") != FORMAT:
        return None, Finding("outdated", own, OLD_FORMAT)
    labels = {"step": result.step, "experiment": result.experiment}
    wrong = {key: manifest.get(key) for key, value in labels.items() if manifest.get(key) != value}
    if result.users and _users_of(manifest) != result.users:
        wrong["users"] = _users_of(manifest)
    if wrong:
        return None, Finding("mismatched", own, f"it belongs to {json.dumps(wrong)}, so it is in the wrong folder")
    try:
        for path, sha256 in _files_of(folder, result, manifest):
            if not path.is_file():
                return None, Finding("missing", path.relative_to(folder).as_posix(), "the file is missing")
            if digest_file(path) != sha256:
                reason = "the file was edited or cut short after it was written"
                return None, Finding("modified", path.relative_to(folder).as_posix(), reason)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return None, Finding("mismatched", own, f"a key is missing or invalid ({error})")
    return manifest, None


def _users_of(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(manifest["users"]) if "users" in manifest else (str(manifest.get("user")),)


def _files_of(folder: Path, result: Result, manifest: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield each file of a result that needs a checksum check, with its recorded SHA-256."""
    for path in result.files:
        yield folder / path, manifest["files"][Path(path).name]
    if result.step == steps.PREPARE.name:
        for name, size in manifest.get("stored_images", {}).items():
            file = (folder / result.manifest).parent / name
            if not file.is_file() or file.stat().st_size != size:
                yield file, recorded_digest(name)
    trained: list[Mapping[str, Any]] = [manifest] if result.step == steps.TRAIN.name else []
    trained += manifest["folds"].values() if result.step == steps.TRAIN_FOLDS.name else []
    own = (folder / result.manifest).parent
    for record in trained:
        yield from _changed(own / record["weights_folder"], record["weights_state"], record["weights_files"])
        for kept in record.get("kept", {}).values():
            yield from _changed(own / kept["folder"], kept["state"], kept["files"])


def _changed(
    folder: Path, states: Mapping[str, Sequence[int]], digests: Mapping[str, str]
) -> Iterator[tuple[Path, str]]:
    """Yield the files of weights with another size or time than recorded, with their recorded SHA-256."""
    for name, (size, modified) in states.items():
        file = folder / name
        stat = file.stat() if file.is_file() else None
        if stat is None or (stat.st_size, stat.st_mtime_ns) != (size, modified):
            yield file, digests[name]
