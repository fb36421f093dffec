"""The report: one HTML file that holds everything it shows.

It loads nothing and runs nothing: its content security policy allows only its own style sheet and embedded images.
Equal inputs give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from usertune.core import formatting
from usertune.core.errors import UserError
from usertune.core.files import write_json, write_text
from usertune.core.hashing import digest_file
from usertune.core.manifest import read_manifest, step_manifest, write_result
from usertune.core.step_names import AUDIT, LEAKAGE, REPORT, TRAIN
from usertune.evaluation import table_names
from usertune.evaluation.groups import groups_note
from usertune.evaluation.reading_note import reading_note
from usertune.evaluation.recipe import ComparisonDesign
from usertune.evaluation.tables import read_table, records, require_experiments
from usertune.reporting.examples import MARKER_RADIUS, collect_examples
from usertune.reporting.headline import headline
from usertune.reporting.recipe import ReportRecipe
from usertune.reporting.ro_crate import crate_of, link_as_crate
from usertune.reporting.sections.answers import form_rows
from usertune.reporting.sections.computation import computation_notes
from usertune.reporting.sections.groups import (
    chosen_names,
    comparison_rows,
    comparisons_note,
    group_rows,
    group_sentences,
)
from usertune.reporting.sections.leakage import leakage_note
from usertune.reporting.sections.lineage import fingerprint_rows, provenance_rows, version_rows
from usertune.reporting.sections.runs import answer_row, cautions, training_row
from usertune.reporting.sections.study import base_model_rows, data_rows, date_rows, setting_rows, split_rows, times_of
from usertune.reporting.sections.trainings import trainings_by_experiment
from usertune.reporting.skipped import read_data, skipped, skipped_digest, skipped_note
from usertune.reporting.style import styles
from usertune.runtime.provenance import current_provenance
from usertune.tasks.catalogue import get_task
from usertune.tasks.metrics import Metric, threshold_label

# With fewer clusters, cluster-robust intervals tend to be too narrow (Cameron & Miller 2015, section VI).
FEW_USERS = 30


@dataclass(frozen=True)
class ReportFiles:
    """What the report is made from.

    ``leakage`` is what the splits have in common; ``samples`` are files called ``user_<id>.jsonl``; each of ``figures``
    (SVG) has its manifest beside it; ``study`` is the text of the study (see `usertune.study.copy`), ``base_model`` the
    manifest of its base model, and ``data`` the folder with the manifests of all users' prepared data.
    """

    study: Path
    base_model: Path
    tables: Path
    figures: Sequence[Path]
    audit: Path
    leakage: Path
    training_manifests: Sequence[Path]
    predictions: Sequence[Path]
    samples: Sequence[Path]
    data: Path
    dataset_root: Path


@dataclass(frozen=True)
class ReportOutputs:
    """What is written.

    Attributes:
        report: HTML.
        study: YAML, a copy of the study.
        provenance: RO-Crate metadata, see `usertune.reporting.ro_crate`; where links are possible,
            ``ro-crate-metadata.json`` next to it is made a link to it.
        manifest: JSON: fingerprint of the report, digests of the others.
    """

    report: Path
    study: Path
    provenance: Path
    manifest: Path


@dataclass(frozen=True)
class Manifests:
    """The manifests of what the report is made from.

    ``lineage`` is that of the tables, ``leakage`` what the splits have in common; ``trainings`` are by experiment (see
    `trainings_by_experiment`), and ``data`` holds (split, manifest of the prepared data) of all users.
    """

    lineage: Mapping[str, Any]
    audit: Mapping[str, Any]
    leakage: Mapping[str, Any]
    base_model: Mapping[str, Any]
    figures: Sequence[Mapping[str, Any]]
    trainings: Mapping[str, Mapping[str, Any]]
    predictions: Sequence[Mapping[str, Any]]
    data: Sequence[tuple[str, dict[str, Any]]]


def make_report(recipe: ReportRecipe, files: ReportFiles, outputs: ReportOutputs) -> None:
    """Write the report of a study as one self-contained HTML file, then its provenance for machines.

    Args:
        recipe: what the report says and shows.
        files: what the report is made from.
        outputs: what is written.

    Raises:
        UserError: an input is missing, malformed or of another study.
    """
    made_from = _read_manifests(recipe, files)
    lineage, data = made_from.lineage, made_from.data
    said = step_manifest(recipe, _inputs(made_from))
    study = _read_study(files.study)
    page = _render(
        {
            **_results(recipe, files, made_from),
            **_study(recipe, made_from),
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
    )
    write_text(outputs.report, page)
    write_text(outputs.study, study)
    digests = {path.name: digest_file(path) for path in (outputs.report, outputs.study)}
    contents = {**_digests(files, lineage, made_from.figures), **digests}
    times = times_of(made_from.trainings, made_from.predictions)
    crate = crate_of(recipe, lineage, contents, base_model=made_from.base_model, times=times)
    write_json(outputs.provenance, crate)
    link_as_crate(outputs.provenance)
    manifest = {
        **said,
        "provenance": [current_provenance(REPORT, plug_ins=recipe.task_modules)],
        "files": {**digests, outputs.provenance.name: digest_file(outputs.provenance)},
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


def _read_manifests(recipe: ReportRecipe, files: ReportFiles) -> Manifests:
    trainings = [_of_study(read_manifest(path), path, recipe) for path in files.training_manifests]
    return Manifests(
        lineage=read_manifest(files.tables / table_names.MANIFEST),
        audit=read_manifest(files.audit),
        leakage=read_manifest(files.leakage),
        base_model=read_manifest(files.base_model),
        figures=[read_manifest(path.with_suffix(".manifest.json")) for path in files.figures],
        trainings=trainings_by_experiment(trainings),
        predictions=[_of_study(read_manifest(path), path, recipe) for path in files.predictions],
        data=read_data(files.data, recipe.splits),
    )


def _results(recipe: ReportRecipe, files: ReportFiles, made_from: Manifests) -> dict[str, Any]:
    """Return what the template shows of the results: tables, figures, trainings, answers and examples."""
    design, task, threshold = recipe, get_task(recipe.task), recipe.thresholds[0]
    trainings, predictions = made_from.trainings, made_from.predictions
    summary, differences, users, samples = (
        _table(files.tables / name, design)
        for name in (table_names.SUMMARY, table_names.DIFFERENCES, table_names.USERS, table_names.SAMPLES)
    )
    # The comparison leaves out metrics that apply to no sample.
    metrics = [metric for metric in recipe.metrics if metric.name in summary]
    groups = read_table(files.tables / table_names.GROUPS) if recipe.groups else None
    examples = collect_examples(
        design,
        {path.stem.removeprefix("user_"): path for path in files.samples},
        files.dataset_root,
        _texts(predictions),
        samples,
    )
    return {
        "title": recipe.title or "Comparison of experiments",
        "study": recipe.study,
        "headline": headline(design, metrics[0], summary, differences, groups),
        **_stated(recipe, metrics[0], files.tables),
        **_grouped(groups, metrics[0]),
        "reading_note": reading_note(recipe, summary),
        "few_users": len(design.users) < FEW_USERS,
        "users": design.users,
        "experiments": design.names,
        "styles": styles(design),
        "primary": metrics[0],
        "other_metrics": metrics[1:],
        "summary": _summary_rows(summary, metrics),
        "figures": [_figure(path) for path in files.figures],
        "by_user": _user_rows(design, metrics[0], users),
        "trainings": [training_row(name, trainings[name]) for name in design.names if name in trainings],
        "answers": [answer_row(name, predictions, samples) for name in design.names],
        "cautions": cautions(trainings, predictions),
        "computation_notes": computation_notes(trainings, predictions),
        "forms": form_rows(design, task.forms, task.reasons, samples),
        "examples": examples,
        "marker_radius": MARKER_RADIUS,
        "marks_note": task.marks_note(threshold),
    }


def _stated(recipe: ReportRecipe, primary: Metric, tables: Path) -> dict[str, Any]:
    """Return what the template shows of the hypothesis."""
    table = read_table(tables / table_names.HYPOTHESIS) if recipe.has_comparisons else pd.DataFrame()
    return {
        "hypothesis": recipe.hypothesis,
        "comparisons": comparison_rows(table, primary),
        "comparisons_note": comparisons_note(primary, table),
    }


def _grouped(groups: pd.DataFrame | None, primary: Metric) -> dict[str, Any]:
    """Return what the template shows of groups of experiments."""
    table = pd.DataFrame({"group": []}) if groups is None else groups
    return {
        "groups": group_rows(table, primary),
        "group_sentences": group_sentences(table, primary),
        "groups_note": groups_note(primary),
        "chosen": chosen_names(table),
    }


def _study(recipe: ReportRecipe, made_from: Manifests) -> dict[str, Any]:
    """Return what the template shows of the study, see `usertune.reporting.sections.study`."""
    lineage, trainings, predictions = made_from.lineage, made_from.trainings, made_from.predictions
    thresholds = [threshold_label(threshold) for threshold in recipe.thresholds]
    modes = {experiment.name: experiment.mode for experiment in recipe.experiments}
    on_splits = {name: training for name, training in trainings.items() if training["step"] == TRAIN}
    first = recipe.names[0]
    answered = sum(len(batch["predictions"]) for batch in predictions if batch["experiment"] == first)
    confidence = lineage["recipe"].get("confidence")
    return {
        "splits": split_rows(recipe.splits, on_splits, answered),
        "settings": setting_rows(modes, trainings, predictions),
        "shared": [
            *base_model_rows(made_from.base_model),
            *data_rows(recipe.dataset, thresholds, confidence),
            *([("evaluation.further_tasks", ", ".join(recipe.further_tasks))] if recipe.further_tasks else []),
            *([("evaluation.primary", recipe.primary)] if recipe.primary else []),
        ],
        "dates": date_rows(recipe.names, trainings, times_of(trainings, predictions), lineage),
    }


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


def _render(context: Mapping[str, Any]) -> str:
    loader = PackageLoader("usertune.reporting")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = _breakable
    style = loader.get_source(environment, "report.css")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    template = environment.get_template("report.html.jinja")
    return template.render(**context, style=style, style_digest=digest)


def _breakable(key: str) -> Markup:
    """Return a key as HTML in which lines may break after dots and underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])", key))


def _table(path: Path, design: ComparisonDesign) -> pd.DataFrame:
    table = read_table(path)
    if path.name == table_names.DIFFERENCES:
        return table
    require_experiments(table, path, design.names)
    return table


def _of_study(result: dict[str, Any], path: Path, design: ComparisonDesign) -> dict[str, Any]:
    if result.get("experiment") not in design.names:
        raise UserError(
            f"{path}: of experiment {result.get('experiment')!r}, which this study does not have; leave it out"
        )
    return result


def _texts(predictions: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], str]:
    return {
        (batch["experiment"], answer["user"], answer["id"]): answer["text"]
        for batch in predictions
        for answer in batch["predictions"]
    }


def _figure(path: Path) -> dict[str, str]:
    manifest = read_manifest(path.with_suffix(".manifest.json"))
    try:
        content = base64.b64encode(path.read_bytes()).decode("ascii")
    except FileNotFoundError:
        raise UserError(f"{path}: this figure does not exist; run snakemake again so that it is made") from None
    # Inside <img> an SVG cannot run scripts or load anything.
    source = f"data:image/svg+xml;base64,{content}"
    return {"name": path.stem, "source": source, **{key: manifest[key] for key in ("title", "alternative", "caption")}}


def _summary_rows(summary: pd.DataFrame, metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    primary, *others = metrics
    rows = []
    for row in records(summary):
        missing = formatting.no_interval(int(row["users"]))
        gain, low, high = (row[key] for key in ("difference_to_vanilla", "difference_low", "difference_high"))
        rows.append(
            {
                "experiment": row["experiment"],
                "mode": row["mode"],
                "samples": f"{row['samples']:,.0f}",
                "parse_rate": formatting.percent(row["parse_rate"]),
                "primary": primary.text(row[primary.name]),
                "interval": primary.interval(row[f"{primary.name}_low"], row[f"{primary.name}_high"]) or missing,
                "difference": "" if pd.isna(gain) else primary.difference(gain),
                "difference_interval": "" if pd.isna(gain) else primary.difference_interval(low, high) or missing,
                "others": [metric.text(row[metric.name]) for metric in others],
            }
        )
    return rows


def _user_rows(design: ComparisonDesign, primary: Metric, users: pd.DataFrame) -> list[dict[str, Any]]:
    values = users.pivot(index="user", columns="experiment", values=primary.name)
    samples = users.drop_duplicates("user").set_index("user")["samples"]
    if set(values.index) != set(design.users):
        raise UserError(f"{table_names.USERS}: covers other users than the study; delete it and run snakemake again")
    return [
        {
            "user": user,
            "samples": f"{samples[user]:,.0f}",
            "cells": [primary.text(values[name][user]) for name in design.names],
        }
        for user in design.users
    ]
