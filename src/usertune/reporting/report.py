"""The report: one HTML file that holds everything it shows, but for the screenshots of large studies.

Its content security policy allows only its own scripts and style sheets, by their digests, embedded images, and those
of the folder next to it. Equal inputs give equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.files import write_json, write_text
from usertune.core.hashing import digest_file
from usertune.core.manifest import read_manifest, step_manifest, write_result
from usertune.core.step_names import AUDIT, LEAKAGE, REPORT
from usertune.evaluation import table_names
from usertune.evaluation.recipe import ComparisonDesign
from usertune.reporting.browser.chosen import Chosen, samples_to_show
from usertune.reporting.browser.section import BrowserSection, browser_section
from usertune.reporting.contents import Manifests, ReportFiles, costs_of, figure_shown, results_shown, study_shown
from usertune.reporting.cost_figures import draw_costs, modules_of
from usertune.reporting.cost_files import cost_shown, write_costs
from usertune.reporting.page import render, template_text, vendored
from usertune.reporting.recipe import ReportRecipe
from usertune.reporting.ro_crate import crate_of, link_as_crate
from usertune.reporting.sections.leakage import leakage_note
from usertune.reporting.sections.lineage import fingerprint_rows, provenance_rows, version_rows
from usertune.reporting.sections.study import times_of
from usertune.reporting.sections.trainings import trainings_by_experiment
from usertune.reporting.skipped import read_data, skipped, skipped_digest, skipped_note
from usertune.runtime.provenance import current_provenance

# What draws the list of samples.
LIST = "tabulator-tables"


@dataclass(frozen=True)
class ReportOutputs:
    """What is written.

    Attributes:
        report: HTML.
        study: YAML, a copy of the study.
        provenance: RO-Crate metadata, see `usertune.reporting.ro_crate`; where links are possible,
            ``ro-crate-metadata.json`` next to it is made a link to it.
        figures: folder of the figures of costs, see `usertune.reporting.cost_figures`.
        manifest: JSON: fingerprint of the report, digests of the others.
    """

    report: Path
    study: Path
    provenance: Path
    figures: Path
    manifest: Path


def make_report(recipe: ReportRecipe, files: ReportFiles, outputs: ReportOutputs) -> None:
    """Write the report of a study as one HTML file, with a folder of screenshots if they are many, and its provenance.

    Args:
        recipe: what the report says and shows.
        files: what the report is made from.
        outputs: what is written.

    Raises:
        UserError: an input is missing, malformed or of another study.
    """
    chosen = samples_to_show(recipe, files.tables, files.samples)
    made_from = _read_manifests(recipe, files, chosen)
    lineage, data = made_from.lineage, made_from.data
    said = step_manifest(recipe, _inputs(made_from))
    study = _read_study(files.study)
    browser = browser_section(recipe, files, made_from, chosen, outputs.report)
    costs = costs_of(recipe, files, made_from)
    of_costs = write_costs(*costs, files.tables, said["fingerprint"])
    drawn = list(draw_costs(recipe, files.tables, outputs.figures))
    of_costs += [path for figure in drawn for path in figure.files]
    contents = {
        "cost": cost_shown(*costs),
        "cost_figures": [figure_shown(figure.files[0], asdict(figure)) for figure in drawn],
        **results_shown(recipe, files, made_from),
        **study_shown(recipe, made_from),
        **browser.shown,
        "skipped_note": skipped_note(data),
        "skipped": list(skipped(data)),
        "leakage_note": leakage_note(made_from.leakage, _beside(outputs.report, files.leakage)),
        "study_file": outputs.study.name,
        "fingerprint": said["fingerprint"],
        "lineage": lineage,
        "fingerprints": fingerprint_rows(lineage),
        "provenance_rows": provenance_rows(lineage),
        "versions": version_rows(lineage),
        "environment_mismatches": made_from.audit["environment_mismatches"],
    }
    write_text(outputs.report, _page(contents, browser))
    write_text(outputs.study, study)
    digests = {path.name: digest_file(path) for path in (outputs.report, outputs.study)}
    in_folders = {f"{path.parent.name}/{path.name}": digest_file(path) for path in of_costs}
    all_digests = {**_digests(files, lineage, made_from.figures), **in_folders, **digests}
    times = times_of(made_from.trainings, made_from.predictions)
    crate = crate_of(recipe, lineage, all_digests, base_model=made_from.base_model, times=times)
    write_json(outputs.provenance, crate)
    link_as_crate(outputs.provenance)
    manifest = {
        **said,
        "provenance": [current_provenance(REPORT, plug_ins=(*recipe.task_modules, *modules_of(recipe)))],
        "files": {
            **digests,
            **{Path(place).name: sha256 for place, sha256 in in_folders.items()},
            outputs.provenance.name: digest_file(outputs.provenance),
        },
        **({"pictures": browser.pictures_digest} if browser.pictures_digest else {}),
    }
    write_result(outputs.manifest, manifest)


def _inputs(made_from: Manifests) -> dict[str, Any]:
    """Return the digests of what the report is made from, by role."""
    return {
        AUDIT: made_from.audit["output"],
        LEAKAGE: made_from.leakage["output"],
        "tables": made_from.lineage["output"],
        "figures": {figure["name"]: figure["output"] for figure in made_from.figures},
        "data": {manifest["user"]: skipped_digest(manifest) for _, manifest in made_from.data},
    }


def _read_manifests(recipe: ReportRecipe, files: ReportFiles, chosen: Chosen) -> Manifests:
    trainings = [_of_study(read_manifest(path), path, recipe) for path in files.training_manifests]
    return Manifests(
        lineage=read_manifest(files.tables / table_names.MANIFEST),
        audit=read_manifest(files.audit),
        leakage=read_manifest(files.leakage),
        base_model=read_manifest(files.base_model),
        figures=[read_manifest(path.with_suffix(".manifest.json")) for path in files.figures],
        trainings=trainings_by_experiment(trainings),
        each_training=trainings,
        predictions=[
            chosen.without_other_texts(_of_study(read_manifest(path), path, recipe)) for path in files.predictions
        ],
        data=read_data(files.data, recipe.splits),
    )


def _page(contents: Mapping[str, Any], browser: BrowserSection) -> str:
    """Return the HTML; the front-end library is in it only where the browser of samples is."""
    styles, scripts = [template_text("report.css")], [template_text("tables.js")]
    packages = [vendored(LIST)] if browser.shown["browser_data"] else []
    for package in packages:
        styles = [*package.styles, *styles, template_text("browser.css")]
        scripts = [*package.scripts, *scripts, template_text("browser.js")]
    # As a file of the disk, a page is not from the origin of the files next to it.
    images = "data: 'self' file:" if browser.shown["pictures_folder"] else "data:"
    return render("report.html.jinja", {**contents, "packages": packages}, styles, scripts, images)


def _read_study(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); every run of the workflow writes it") from None


def _beside(report: Path, file: Path) -> str:
    return Path(os.path.relpath(file, report.parent)).as_posix()


def _digests(files: ReportFiles, lineage: Mapping[str, Any], figures: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the digests of tables and figures, by their paths relative to the report."""
    found = {f"{files.tables.name}/{name}": sha256 for name, sha256 in lineage["files"].items()}
    for path, figure in zip(files.figures, figures, strict=True):
        found |= {f"{path.parent.name}/{name}": sha256 for name, sha256 in figure["files"].items()}
    return found


def _of_study(result: dict[str, Any], path: Path, design: ComparisonDesign) -> dict[str, Any]:
    if result.get("experiment") not in design.names:
        raise UserError(
            f"{path}: of experiment {result.get('experiment')!r}, which this study does not have; leave it out"
        )
    return result
