"""The audit: checks every result of a study, computes its fingerprint again, and lists all problems.

It trusts only the study, the raw data and the base model. A result is valid if it is complete, is in its folder, has
the current recipe, and was made from exactly the current inputs.
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

from usertune.checks.elsewhere import changed_content
from usertune.checks.sources import raw_data_of
from usertune.checks.upstream import not_made_from_upstream
from usertune.core.errors import UserError
from usertune.core.hashing import digest, digest_file, file_states
from usertune.core.manifest import OLD_FORMAT, read_manifest, read_result, step_manifest, write_result
from usertune.core.step_names import LEAKAGE
from usertune.core.users import parse_users
from usertune.data.images import BadImageError, describe_image, resolve_inside
from usertune.data.raw_data import RawData
from usertune.data.reader import RawSample, digest_sources
from usertune.data.samples import read_samples
from usertune.models.base_folder import is_local, model_files
from usertune.pipeline import steps
from usertune.pipeline.layout import Finding, Result, read_checked, results_of
from usertune.pipeline.plug_ins import code_key, current_code
from usertune.pipeline.recipe_changes import recipe_changes
from usertune.pipeline.recipes import AuditRecipe, Recipes
from usertune.runtime.provenance import UNKNOWN, differences, installed_versions
from usertune.study.schema.study import Study

logger = logging.getLogger(__name__)

Manifest = dict[str, Any]


@dataclass
class Audit:
    """What an audit found.

    Attributes:
        checked: number of checked results.
        findings: problems.
        environment_mismatches: valid results made with code or packages other than the current ones, as
            ``{"what": label, "changes": [text, ...]}``.
        unreferenced: files that are not (or no longer) part of the study; no table uses them.
    """

    checked: int = 0
    findings: list[Finding] = field(default_factory=list)
    environment_mismatches: list[dict[str, Any]] = field(default_factory=list)
    unreferenced: list[str] = field(default_factory=list)


def audit_study(study: Study, with_report: bool = True) -> Audit:
    """Check the results of a study.

    Args:
        study: the study; its ``results`` is the folder to check.
        with_report: whether to check the audit and the report too.
    """
    recipes = Recipes(study, current_code(study), installed_versions())
    results = results_of(study, recipes)
    if not with_report:
        gated = {step.name for step in steps.BEFORE_AUDIT}
        results = {path: result for path, result in results.items() if result.step in gated}
    folder = Path(study.results)
    raw_data = raw_data_of(study)
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
    audit.unreferenced = _unreferenced(study, results, manifests)
    return audit


def run_audit(study: Study, recipe: AuditRecipe, out: Path) -> Audit:
    """Audit the inputs of the report. If there are no problems, write the outcome and delete older ones.

    Args:
        study: the study.
        recipe: the audit's own recipe.
        out: path of the JSON file to write.

    Raises:
        UserError: the message lists all problems.
    """
    audit = audit_study(study, with_report=False)
    if audit.findings:
        raise UserError(in_words(audit))
    result = {**step_manifest(recipe, _inputs(study, recipe.step)), **asdict(audit)}
    for older in out.parent.glob("*.json"):
        older.unlink()
    write_result(out, {**result, "files": {}})
    logger.info("%s", in_words(audit))
    return audit


def _inputs(study: Study, step: str) -> dict[str, Any]:
    """Return the digests of the audited tables and figures, by role."""
    results = results_of(study, Recipes(study, current_code(study), installed_versions())).values()
    paths = next(result.inputs for result in results if result.step == step)
    folder = Path(study.results)
    (tables,), figures, (leakage,) = (
        [read_manifest(folder / path) for path in paths[role]] for role in ("tables", "figures", LEAKAGE)
    )
    return {
        LEAKAGE: leakage["output"],
        "tables": tables["output"],
        "figures": {figure["name"]: figure["output"] for figure in figures},
    }


def in_words(audit: Audit, shown: int = 20) -> str:
    """Return an audit as text for people, with at most ``shown`` lines of each kind."""
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
            f"the audit failed: {len(audit.findings)} of {audit.checked} results are not valid; run snakemake once to "
            "make them again"
        )
    else:
        lines.append(f"the audit passed: {audit.checked} results match the study")
    return "\n".join(lines)


def _stale(study: Study, raw_data: RawData, result: Result, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """Yield why a complete, unmodified result is stale."""
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
    """Yield changes of the raw data or the base model since a result was made."""
    if result.step == steps.PREPARE.name:
        (user,) = result.users
        files = raw_data.reader.sources(user)
        what = f"the raw data {', '.join(map(str, files[:2]))}{', ...' if len(files) > 2 else ''}"
        if not files:
            yield f"the raw data of user {user} in {raw_data.root} are missing"
        elif raw_data.state(user) != manifest["sources_state"]:
            # A copy has other times, but the same content.
            if digest_sources(files, raw_data.root) != manifest["raw_sha256"]:
                yield f"{what} changed"
            elif study.dataset.watch_images != "never":
                yield from _changed_images(raw_data.root, Path(study.results) / result.files[0], user)
                yield from _repaired_images(raw_data, manifest)
    yield from changed_content(study, result, manifest)
    if result.step == steps.BASE_MODEL.name and is_local(study.base_model.path):
        folder = Path(study.base_model.path).expanduser()
        names = model_files(folder)
        if file_states(folder, names) != manifest["model_state"] and (
            digest({name: digest_file(folder / name) for name in names}) != manifest["output"]
        ):
            yield f"the base model in {folder} changed"


def _changed_images(root: Path, samples: Path, user: str) -> Iterator[str]:
    images = (image for sample in read_samples(samples, user) for image in sample["images"])
    # Stored images are files of the result itself.
    recorded = {image["path"]: image["sha256"] for image in images if not image.get("stored")}
    for name, sha256 in recorded.items():
        try:
            path = resolve_inside(root, name)
            if not path.is_file() or digest_file(path) != sha256:
                yield f"the image {path} changed"
        except (BadImageError, OSError) as error:
            yield f"the image {name} cannot be read: {error}"


def _repaired_images(raw_data: RawData, manifest: Manifest) -> Iterator[str]:
    """Yield samples that were skipped because of an image that is valid now."""
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
            yield f"line {location.line} of {location.file} was skipped because of an image that is valid now"


def _environment_mismatches(
    study: Study, results: Mapping[str, Result], manifests: Mapping[str, Manifest]
) -> list[dict[str, Any]]:
    """Return the results made with other code or packages than the current ones, grouped by equal changes."""
    versions, code = installed_versions(), current_code(study)
    found: dict[tuple[str, ...], list[str]] = {}
    for path, manifest in manifests.items():
        result = results[path]
        if result.step not in steps.RECORDED_STEPS:
            continue
        records = manifest.get("provenance", [UNKNOWN])
        if isinstance(records, dict):
            records = records.get(result.step, [UNKNOWN])
        now = {"code": code[code_key(study, result.step, result.experiment)], "versions": versions}
        changes = tuple(dict.fromkeys(change for record in records for change in differences(record, now)))
        if changes:
            found.setdefault((result.step, result.experiment or "", *changes), []).append(result.label)
    return [
        {"what": labels[0] if len(labels) == 1 else f"{labels[0]} and {len(labels) - 1} more", "changes": list(key[2:])}
        for key, labels in found.items()
    ]


def _unreferenced(study: Study, results: Mapping[str, Result], manifests: Mapping[str, Manifest]) -> list[str]:
    """Return files in the results folder that belong to no result of the study, without weights.

    Files that comparisons of other users use are not unreferenced; those comparisons do not check shared folders.
    """
    folder, outcomes = Path(study.results), study.origin.outcomes
    known = {path for result in results.values() for path in (result.manifest, *result.files)}
    # Of these, some lie in folders of earlier steps; an audit before the report does not check them.
    known |= {outcomes + path for path in steps.REPORT.files_of(study).values()}
    for own, manifest in manifests.items():
        known.update((Path(own).parent / name).as_posix() for name in manifest.get("stored_images", ()))
    checked = [step for step in steps.BEFORE_AUDIT if step.of_comparison or not outcomes]
    others = set() if outcomes else _users_of_subsets(folder)
    found = []
    for step in checked:
        # Weights are deeper.
        pattern = "*/*.*" if step in (steps.TRAIN, steps.TRAIN_FOLDS) else "**/*.*"
        for path in sorted((folder / (outcomes if step.of_comparison else "") / step.folder).glob(pattern)):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not path.name.startswith(".") and name not in known:
                users = _users_in(path.name)
                if not users or not users <= others:
                    found.append(name)
    # Two steps can have a folder in common.
    return list(dict.fromkeys(found))


def _users_of_subsets(folder: Path) -> set[str]:
    """Return the users of all comparisons in `steps.SUBSETS`."""
    found: set[str] = set()
    for path in folder.glob(f"{steps.SUBSETS}/*/{steps.COMPARE.manifest}"):
        with suppress(UserError, KeyError, TypeError):
            found.update(read_result(path)["recipe"]["users"])
    return found


def _users_in(name: str) -> set[str]:
    """Return the users in a file name."""
    label = re.fullmatch(r"users?_(.+?)(\.manifest)?\.(jsonl?|csv)", name)
    try:
        return set(parse_users(label[1])) if label else set()
    except UserError:
        return set()
