"""The audit: every result is looked at, its fingerprint computed anew, and whatever does not fit is named.

It trusts nothing but the study, the raw data and the base model: a result stands only if it is whole, lies in its
path, was made by today's recipe, and from exactly the results that are there now.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from usertune.checks.sources import RawData
from usertune.checks.upstream import not_made_from_upstream
from usertune.core.errors import UserError
from usertune.core.hashing import digest, digest_file, file_states
from usertune.core.manifest import OLD_FORMAT, read_manifest, read_result, step_manifest, write_result
from usertune.core.users import parse_users
from usertune.data.images import BadImageError, describe_image, resolve_inside
from usertune.data.reader import RawSample, digest_sources
from usertune.data.samples import read_samples
from usertune.models.base_folder import is_local, model_files
from usertune.pipeline import steps
from usertune.pipeline.layout import Finding, Result, read_checked, results_of
from usertune.pipeline.recipes import AuditRecipe, Recipes, current_code, recipe_changes
from usertune.runtime.provenance import UNKNOWN, differences, installed_versions
from usertune.study.schema.study import Study

logger = logging.getLogger(__name__)

Manifest = dict[str, Any]


@dataclass
class Audit:
    """What an audit found.

    Attributes:
        checked: how many results were looked at.
        findings: what is wrong.
        environment_mismatches: results that stand, but were made with other code or packages than today's, as
            ``{"what": label, "changes": [text, ...]}``.
        unreferenced: files that are not (or no longer) part of the study; no table is made from them.
    """

    checked: int = 0
    findings: list[Finding] = field(default_factory=list)
    environment_mismatches: list[dict[str, Any]] = field(default_factory=list)
    unreferenced: list[str] = field(default_factory=list)


def audit_study(study: Study, whole: bool = True) -> Audit:
    """Look at every result of a study.

    Args:
        study: the study; its ``results`` is the folder to look at.
        whole: look at the report and the audit on which it is gated, too.
    """
    recipes = Recipes(study, current_code(study), installed_versions())
    results = results_of(study, recipes)
    if not whole:
        gated = {step.name for step in steps.BEFORE_AUDIT}
        results = {path: result for path, result in results.items() if result.step in gated}
    folder = Path(study.results)
    raw_data = RawData(study)
    audit = Audit()
    manifests: dict[str, Manifest] = {}
    for path, result in results.items():
        audit.checked += 1
        manifest, finding = read_checked(folder, result)
        if manifest is None:
            audit.findings.extend([finding] if finding else [])
            continue
        manifests[path] = manifest
        reasons = _stale(study, raw_data, result, manifests)
        audit.findings.extend(Finding("stale", path, reason) for reason in reasons)
    audit.environment_mismatches = _environment_mismatches(study, results, manifests)
    audit.unreferenced = _unreferenced(study, results)
    return audit


def run_audit(study: Study, recipe: AuditRecipe, out: Path) -> Audit:
    """Audit what the report is made from, and write the outcome, in place of older ones, if nothing is wrong.

    Args:
        study: the study.
        recipe: the audit's own recipe, to be recorded.
        out: JSON to write.

    Raises:
        UserError: something is wrong; the message lists it.
    """
    audit = audit_study(study, whole=False)
    if audit.findings:
        raise UserError(in_words(audit))
    result = {**step_manifest(recipe, _inputs(study, recipe.step)), **asdict(audit)}
    for older in out.parent.glob("*.json"):
        older.unlink()
    write_result(out, {**result, "files": {}})
    logger.info("%s", in_words(audit))
    return audit


def _inputs(study: Study, step: str) -> dict[str, Any]:
    """Return the digests of what the audit says that it holds, by role."""
    results = results_of(study, Recipes(study, current_code(study), installed_versions())).values()
    paths = next(result.inputs for result in results if result.step == step)
    folder = Path(study.results)
    (tables,), figures = ([read_manifest(folder / path) for path in paths[role]] for role in ("tables", "figures"))
    return {"tables": tables["output"], "figures": {figure["name"]: figure["output"] for figure in figures}}


def in_words(audit: Audit, shown: int = 20) -> str:
    """Return what an audit found as text for people."""
    outdated = [finding.path for finding in audit.findings if finding.kind == "outdated"]
    findings = [finding for finding in audit.findings if finding.kind != "outdated"]
    lines = [f"{finding.kind}: {finding.path}: {finding.reason}" for finding in findings[:shown]]
    if outdated:
        lines.insert(0, f"outdated: {len(outdated)} results, such as {outdated[0]}: {OLD_FORMAT}")
    if len(findings) > shown:
        lines.append(f"... and {len(findings) - shown} more")
    lines += [
        f"note: {item['what']}: made with {', '.join(item['changes'])}" for item in audit.environment_mismatches[:shown]
    ]
    if audit.unreferenced:
        names = ", ".join(audit.unreferenced[:3]) + (", ..." if len(audit.unreferenced) > 3 else "")
        lines.append(f"note: {len(audit.unreferenced)} files are not part of this study (no table uses them): {names}")
    if audit.findings:
        lines.append(
            f"the audit failed: {len(audit.findings)} of {audit.checked} results do not hold. Run snakemake: one run "
            "makes them again"
        )
    else:
        lines.append(f"the audit holds: {audit.checked} results are what the study says")
    return "\n".join(lines)


def _stale(study: Study, raw_data: RawData, result: Result, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """Yield why a result, which is whole, is not what it should be."""
    manifest = manifests[result.manifest]
    changes = recipe_changes(manifest.get("recipe", {}), result.recipe)
    if changes:
        yield f"made with other settings: {'; '.join(changes)}"
        return
    try:
        yield from _changed_sources(study, raw_data, result, manifest)
    except (KeyError, TypeError, ValueError, UserError) as error:
        yield f"cannot be checked against its sources: {error}"
        return
    yield from not_made_from_upstream(result, manifests)


def _changed_sources(study: Study, raw_data: RawData, result: Result, manifest: Manifest) -> Iterator[str]:
    """Yield how the raw data or the base model differ from what a result was made from."""
    if result.step == steps.PREPARE.name:
        (user,) = result.users
        files = raw_data.reader.sources(user)
        what = f"the raw data {', '.join(map(str, files[:2]))}{', ...' if len(files) > 2 else ''}"
        if not files:
            yield f"the raw data of user {user} in {raw_data.root} are gone"
        elif raw_data.state(user) != manifest["sources_state"]:
            # Times may differ although the content is the same, as after a copy.
            if digest_sources(files, raw_data.root) != manifest["raw_sha256"]:
                yield f"{what} changed"
            elif study.dataset.watch_images != "never":
                yield from _changed_images(raw_data.root, Path(study.results) / result.files[0], user)
                yield from _repaired_images(raw_data, manifest)
    elif result.step == steps.BASE_MODEL.name and is_local(study.base_model.path):
        folder = Path(study.base_model.path).expanduser()
        names = model_files(folder)
        if file_states(folder, names) != manifest["model_state"] and (
            digest({name: digest_file(folder / name) for name in names}) != manifest["output"]
        ):
            yield f"the base model in {folder} changed"


def _changed_images(root: Path, samples: Path, user: str) -> Iterator[str]:
    recorded = {image["path"]: image["sha256"] for sample in read_samples(samples, user) for image in sample["images"]}
    for name, sha256 in recorded.items():
        try:
            path = resolve_inside(root, name)
            if not path.is_file() or digest_file(path) != sha256:
                yield f"the image {path} changed"
        except (BadImageError, OSError) as error:
            yield f"the image {name} cannot be read: {error}"


def _repaired_images(raw_data: RawData, manifest: Manifest) -> Iterator[str]:
    """Yield which samples were skipped for an image that is good now."""
    skipped = {(item.get("file"), item["line"]) for item in manifest["skipped_samples"] if item["field"] == "image"}
    if not skipped:
        return
    user = manifest["user"]
    single = len(raw_data.reader.sources(user)) == 1
    for location, sample in raw_data.reader.read(user):
        file = None if single else os.path.relpath(location.file, raw_data.root)
        if (file, location.line) in skipped and isinstance(sample, RawSample):
            try:
                for name in sample.image_paths:
                    describe_image(raw_data.root, name)
            except BadImageError:
                continue
            yield f"line {location.line} of {location.file} was skipped for an image that is good now"


def _environment_mismatches(
    study: Study, results: Mapping[str, Result], manifests: Mapping[str, Manifest]
) -> list[dict[str, Any]]:
    """Return which results were made with other code or packages than today's; alike ones are named together."""
    versions, code = installed_versions(), current_code(study)
    found: dict[tuple[str, ...], list[str]] = {}
    for path, manifest in manifests.items():
        result = results[path]
        if result.step not in steps.RECORDED_STEPS:
            continue
        records = manifest.get("provenance", [UNKNOWN])
        if isinstance(records, dict):
            records = records.get(result.step, [UNKNOWN])
        now = {"code": code[result.step], "versions": versions}
        changes = tuple(dict.fromkeys(change for record in records for change in differences(record, now)))
        if changes:
            found.setdefault((result.step, result.experiment or "", *changes), []).append(result.label)
    return [
        {"what": labels[0] if len(labels) == 1 else f"{labels[0]} and {len(labels) - 1} more", "changes": list(key[2:])}
        for key, labels in found.items()
    ]


def _unreferenced(study: Study, results: Mapping[str, Result]) -> list[str]:
    """Return files in the folders of results that belong to no result of the study; weights are not looked at.

    What comparisons of other users use is not left over, nor is for them what they do not use.
    """
    folder, outcomes = Path(study.results), study.origin.outcomes
    known = {path for result in results.values() for path in (result.manifest, *result.files)}
    looked_through = [step for step in steps.BEFORE_AUDIT if step.of_comparison or not outcomes]
    others = set() if outcomes else _users_of_subsets(folder)
    found = []
    for step in looked_through:
        # Weights lie deeper.
        pattern = "*/*.*" if step is steps.TRAIN else "**/*.*"
        for path in sorted((folder / (outcomes if step.of_comparison else "") / step.folder).glob(pattern)):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not path.name.startswith(".") and name not in known:
                users = _users_in(path.name)
                if not users or not users <= others:
                    found.append(name)
    return found


def _users_of_subsets(folder: Path) -> set[str]:
    """Return the users of comparisons that were made beside that of the study."""
    found: set[str] = set()
    for path in folder.glob(f"{steps.SUBSETS}/*/{steps.COMPARE.manifest}"):
        with suppress(UserError, KeyError, TypeError):
            found.update(read_result(path)["recipe"]["users"])
    return found


def _users_in(name: str) -> set[str]:
    """Return the users that a file is named after."""
    label = re.fullmatch(r"users?_(.+?)(\.manifest)?\.(jsonl?|csv)", name)
    try:
        return set(parse_users(label[1])) if label else set()
    except UserError:
        return set()
