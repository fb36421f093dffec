"""What the report shows, as its template takes it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from usertune.core import formatting
from usertune.core.errors import UserError
from usertune.core.manifest import read_manifest
from usertune.core.step_names import TRAIN
from usertune.evaluation import table_names
from usertune.evaluation.adapter_matrix import matrix_note, matrix_rows, matrix_sentence, owners_of
from usertune.evaluation.groups import groups_note
from usertune.evaluation.reading_note import reading_note
from usertune.evaluation.recipe import ComparisonDesign
from usertune.evaluation.rows import read_rows
from usertune.evaluation.tables import read_table, records, require_experiments
from usertune.reporting.cost import cost_table
from usertune.reporting.headline import headline
from usertune.reporting.recipe import ReportRecipe
from usertune.reporting.sections.answers import form_rows
from usertune.reporting.sections.by_group import by_group_shown
from usertune.reporting.sections.computation import computation_notes
from usertune.reporting.sections.groups import (
    chosen_names,
    comparison_rows,
    comparisons_note,
    group_rows,
    group_sentences,
)
from usertune.reporting.sections.runs import answer_row, cautions, training_row
from usertune.reporting.sections.study import base_model_rows, data_rows, date_rows, setting_rows, split_rows, times_of
from usertune.reporting.style import styles
from usertune.tasks.catalogue import get_task
from usertune.tasks.metrics import Metric, threshold_label


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
class Manifests:
    """The manifests of what the report is made from.

    ``lineage`` is that of the tables, ``leakage`` what the splits have in common; ``trainings`` are by experiment (see
    `trainings_by_experiment`), joined from ``each_training``, and ``data`` holds (split, manifest of the prepared data)
    of all users.
    """

    lineage: Mapping[str, Any]
    audit: Mapping[str, Any]
    leakage: Mapping[str, Any]
    base_model: Mapping[str, Any]
    figures: Sequence[Mapping[str, Any]]
    trainings: Mapping[str, Mapping[str, Any]]
    each_training: Sequence[Mapping[str, Any]]
    predictions: Sequence[Mapping[str, Any]]
    data: Sequence[tuple[str, dict[str, Any]]]


def results_shown(recipe: ReportRecipe, files: ReportFiles, made_from: Manifests) -> dict[str, Any]:
    """Return what the template shows of the results: tables, figures, trainings and answers."""
    design, task = recipe, get_task(recipe.task)
    trainings, predictions = made_from.trainings, made_from.predictions
    summary, differences, users, samples = (
        table_of(files.tables / name, design)
        for name in (table_names.SUMMARY, table_names.DIFFERENCES, table_names.USERS, table_names.SAMPLES)
    )
    # The comparison leaves out metrics that apply to no sample.
    metrics = [metric for metric in recipe.metrics if metric.name in summary]
    groups = read_table(files.tables / table_names.GROUPS) if recipe.groups else None
    return {
        "title": recipe.title or "Comparison of experiments",
        "study": recipe.study,
        "headline": headline(design, metrics[0], summary, differences, groups),
        **_stated(recipe, metrics[0], differences),
        **_grouped(recipe, groups, metrics[0]),
        "matrices": _matrices(recipe, metrics[0], files.tables, made_from.lineage["recipe"]["confidence"]),
        "matrix_note": matrix_note(metrics[0]),
        "reading_note": reading_note(recipe, summary),
        "users": design.users,
        "experiments": design.names,
        "styles": styles(design),
        "primary": metrics[0],
        "other_metrics": metrics[1:],
        "summary": _summary_rows(summary, metrics),
        "figures": [figure_shown(path, read_manifest(path.with_suffix(".manifest.json"))) for path in files.figures],
        "by_user": _user_rows(design, metrics[0], users),
        "by_group": by_group_shown(design.names, metrics[0], read_table(files.tables / table_names.BY_GROUP), samples),
        "trainings": [training_row(name, trainings[name]) for name in design.names if name in trainings],
        "answers": [answer_row(name, predictions, samples) for name in design.names],
        "cautions": cautions(trainings, predictions),
        "computation_notes": computation_notes(trainings, predictions),
        "forms": form_rows(design, task.forms, task.reasons, samples),
        "marks_note": task.marks_note(recipe.thresholds[0]),
    }


def _stated(recipe: ReportRecipe, primary: Metric, differences: pd.DataFrame) -> dict[str, Any]:
    """Return what the template shows of the hypothesis, and of the comparisons that are corrected together."""
    table = differences[differences["corrected_for"] > 0]
    return {
        "hypothesis": recipe.hypothesis,
        "stated": recipe.has_comparisons,
        "comparisons": comparison_rows(table, primary),
        "comparisons_note": comparisons_note(primary, table),
    }


def _matrices(recipe: ReportRecipe, primary: Metric, tables: Path, confidence: float) -> list[dict[str, Any]]:
    """Return what the template shows of matrices of adapters."""
    if not recipe.matrix_groups:
        return []
    return [
        {
            "group": group,
            "sentence": matrix_sentence(rows, primary, confidence),
            "owners": owners_of(rows),
            "rows": matrix_rows(rows, primary),
        }
        for group, rows in read_table(tables / table_names.MATRIX).groupby("group", sort=False)
    ]


def _grouped(recipe: ReportRecipe, groups: pd.DataFrame | None, primary: Metric) -> dict[str, Any]:
    """Return what the template shows of groups of experiments; matrices of adapters have a section of their own."""
    table = pd.DataFrame({"group": []}) if groups is None else groups[~groups["group"].isin(recipe.matrix_groups)]
    return {
        "groups": group_rows(table, primary),
        "group_sentences": group_sentences(table, primary),
        "groups_note": groups_note(primary),
        "chosen": chosen_names(table),
    }


def costs_of(recipe: ReportRecipe, files: ReportFiles, made_from: Manifests) -> tuple[pd.DataFrame, Metric]:
    """Return the table of costs, see `usertune.reporting.cost.cost_table`, and the metric of its gains."""
    summary = table_of(files.tables / table_names.SUMMARY, recipe)
    primary = next(metric for metric in recipe.metrics if metric.name in summary)
    price = recipe.price_per_gpu_hour
    table = cost_table(recipe.names, made_from.each_training, made_from.predictions, summary, primary, price)
    return table, primary


def study_shown(recipe: ReportRecipe, made_from: Manifests) -> dict[str, Any]:
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


def table_of(path: Path, design: ComparisonDesign) -> pd.DataFrame:
    """Read a table of the comparison.

    Raises:
        UserError: it is missing, or covers other experiments than the study.
    """
    table = read_rows(path) if path.name == table_names.SAMPLES else read_table(path)
    if path.name == table_names.DIFFERENCES:
        return table
    require_experiments(table, path, design.names)
    return table


def figure_shown(path: Path, said: Mapping[str, Any]) -> dict[str, str]:
    """Return what the template shows of a figure.

    Args:
        path: its SVG file.
        said: its title, alternative text and caption.

    Raises:
        UserError: it does not exist.
    """
    try:
        content = base64.b64encode(path.read_bytes()).decode("ascii")
    except FileNotFoundError:
        raise UserError(f"{path}: this figure does not exist; run snakemake again so that it is made") from None
    # Inside <img> an SVG cannot run scripts or load anything.
    source = f"data:image/svg+xml;base64,{content}"
    return {"name": path.stem, "source": source, **{key: said[key] for key in ("title", "alternative", "caption")}}


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
