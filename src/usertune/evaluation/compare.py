"""Compare: all experiments on all test users, as tables for programs, for people and for papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.core.formatting import distance, no_interval, percent, percent_interval, points, points_interval
from usertune.core.hashing import digest_bytes, digest_file
from usertune.core.manifest import read_result, write_result
from usertune.core.step_fingerprints import compare_fingerprint
from usertune.evaluation import table_names
from usertune.evaluation.lineage import lineage_in_words, lineage_of
from usertune.evaluation.statistics.intervals import click_accuracy, paired_difference
from usertune.evaluation.tables import ComparisonDesign, design_of, read_table, records
from usertune.evaluation.thresholds import hit_column, threshold_label, thresholds_of

PROVENANCE_DIGITS = 16
RESCORE = "delete the file and run snakemake again so that the user is scored again"
TEX_ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
TEX_ESCAPES |= {character: f"\\{character}" for character in "&%$#_{}"}


def compare(recipe: Mapping[str, Any], metrics_files: Sequence[Path], folder: Path) -> None:
    """Write the tables of a study into ``folder``.

    Args:
        recipe: keys ``experiments`` ([{"name", "mode"}], in the order of the report), ``users``, ``thresholds``
            (the first is the primary one) and ``confidence``.
        metrics_files: what the score step wrote, one JSON for each experiment and user; the rows lie beside
            each with the same name and the ending ``.csv``.

    Writes:
        ``samples.csv`` (all rows), ``users.csv`` (metrics of each experiment and user), ``summary.csv`` (one
        row an experiment, see `summary_table`), ``differences.csv`` (one row a pair, see `differences_table`),
        and the summary rounded for people (``summary.md``) and papers (``summary.tex``); last ``manifest.json``,
        which says what all of them were made from. The column ``provenance`` of each CSV names that manifest's
        fingerprint.

    Raises:
        UserError: a score is missing, foreign, given twice, damaged, or made with other thresholds.
    """
    design, thresholds, confidence = design_of(recipe), thresholds_of(recipe), _confidence_of(recipe)
    scores = _read_grid(design, thresholds, metrics_files)
    samples = _all_samples(design, scores)
    summary = summary_table(design, thresholds, confidence, samples)
    metrics = [scores[name, user][0] for name in design.names for user in design.users]
    fingerprint = compare_fingerprint(recipe, metrics)
    origin = lineage_of(recipe, fingerprint, metrics)
    outputs = {
        name: table.assign(provenance=fingerprint[:PROVENANCE_DIGITS]).to_csv(index=False, lineterminator="\n")
        for name, table in (
            (table_names.SAMPLES, samples),
            (table_names.USERS, users_table(design, thresholds, scores)),
            (table_names.DIFFERENCES, differences_table(design, thresholds, confidence, samples)),
            (table_names.SUMMARY, summary),
        )
    }
    note = lineage_in_words(origin)
    outputs[table_names.SUMMARY_MD] = markdown(summary, thresholds) + "\n<!--\n" + "\n".join(note) + "\n-->\n"
    outputs[table_names.SUMMARY_TEX] = "".join(f"% {line}\n" for line in note) + latex(summary, thresholds)
    for name, text in outputs.items():
        write_text(folder / name, text)
    files = {name: digest_bytes(text.encode("utf-8")) for name, text in outputs.items()}
    write_result(folder / table_names.MANIFEST, {**origin, "recipe": dict(recipe), "files": files})


def summary_table(
    design: ComparisonDesign, thresholds: Sequence[float], confidence: float, samples: pd.DataFrame
) -> pd.DataFrame:
    """Return one row an experiment, over all samples of all users.

    Rates are fractions of all samples, each sample weighing the same; the interval of ``click_accuracy`` is at
    level ``confidence`` and robust to users (see `usertune.evaluation.statistics.intervals`). ``mean_l2`` and
    ``median_l2`` are over the parsed answers, in the 0-1000 space. ``difference_to_vanilla`` is paired on the same
    samples; it is empty for the baseline (the first experiment of mode vanilla) and where there is none.
    """
    primary = hit_column(thresholds[0])
    by_name = {name: samples[samples["experiment"] == name].reset_index(drop=True) for name in design.names}
    rows = []
    for experiment in design.experiments:
        own = by_name[experiment.name]
        accuracy = click_accuracy(own[primary], own, confidence)
        row: dict[str, Any] = {
            "experiment": experiment.name,
            "mode": experiment.mode,
            "users": own["user"].nunique(),
            "samples": len(own),
            "parse_rate": own["parsed"].mean(),
            "confidence": confidence,
            "click_accuracy": accuracy.mean,
            "click_accuracy_low": accuracy.low,
            "click_accuracy_high": accuracy.high,
            "mean_l2": own["distance"].mean(),
            "median_l2": own["distance"].median(),
            "difference_to_vanilla": None,
            "difference_low": None,
            "difference_high": None,
        }
        if design.baseline is not None and experiment.name != design.baseline:
            gain = paired_difference(own[primary], by_name[design.baseline][primary], own, confidence)
            row |= {
                "difference_to_vanilla": gain.mean,
                "difference_low": gain.low,
                "difference_high": gain.high,
            }
        row |= {
            f"click_accuracy_at_{threshold_label(threshold)}": own[hit_column(threshold)].mean()
            for threshold in thresholds[1:]
        }
        rows.append(row)
    return pd.DataFrame(rows)


def differences_table(
    design: ComparisonDesign, thresholds: Sequence[float], confidence: float, samples: pd.DataFrame
) -> pd.DataFrame:
    """Return one row for each pair of experiments: how much the later one hits more often than the earlier.

    ``difference`` is of click accuracies (fractions) at the primary threshold, paired on the same samples, with
    the interval of `usertune.evaluation.statistics.intervals.paired_difference`. Two overlapping intervals of
    single experiments do not say that the two are alike; this table answers that question.
    """
    primary = hit_column(thresholds[0])
    by_name = {name: samples[samples["experiment"] == name].reset_index(drop=True) for name in design.names}
    rows = []
    for earlier, later in combinations(design.names, 2):
        own = by_name[later]
        gain = paired_difference(own[primary], by_name[earlier][primary], own, confidence)
        rows.append((later, earlier, own["user"].nunique(), len(own), confidence, gain.mean, gain.low, gain.high))
    names = ["experiment", "baseline", "users", "samples", "confidence", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def users_table(
    design: ComparisonDesign, thresholds: Sequence[float], scores: Mapping[tuple[str, str], tuple[dict[str, Any], Path]]
) -> pd.DataFrame:
    """Return one row for each experiment and user with the metrics that the score step found."""
    rows = []
    for name in design.names:
        for user in design.users:
            metrics, _ = scores[name, user]
            row = {"experiment": name, "user": user}
            row |= {key: metrics[key] for key in ("samples", "parsed", "parse_rate", "click_accuracy")}
            row |= {key: metrics[key] for key in ("mean_l2", "median_l2")}
            for threshold in thresholds[1:]:
                label = threshold_label(threshold)
                row[f"click_accuracy_at_{label}"] = metrics["click_accuracy_at"][label]
            rows.append(row)
    return pd.DataFrame(rows)


def markdown(summary: pd.DataFrame, thresholds: Sequence[float]) -> str:
    """Return the summary, rounded, as a Markdown table with a note on how to read it."""
    header, rows = _rounded(summary, thresholds)
    names = [[f"`{row[0]}`", *row[1:]] for row in rows]
    rule = ["---", "---", *["---:"] * (len(header) - 2)]
    lines = [f"| {' | '.join(line)} |" for line in [header, rule, *names]]
    return "\n".join(lines) + f"\n\n{reading_note(summary, thresholds)}\n"


def latex(summary: pd.DataFrame, thresholds: Sequence[float]) -> str:
    """Return the summary, rounded, as a LaTeX ``tabular`` in the style of the booktabs package."""
    header, rows = _rounded(summary, thresholds)
    lines = [" & ".join(_escape_tex(cell) for cell in line) + r" \\" for line in [header, *rows]]
    return "\n".join(
        [
            r"% Needs \usepackage{booktabs}. " + reading_note(summary, thresholds),
            rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def reading_note(summary: pd.DataFrame, thresholds: Sequence[float]) -> str:
    """Return one paragraph that says what the numbers of the summary are."""
    level = f"{100 * summary['confidence'].iloc[0]:g} %"
    samples, users = int(summary["samples"].iloc[0]), int(summary["users"].iloc[0])
    return (
        f"{samples:,} samples of {users} user{'' if users == 1 else 's'}. A click is a hit within "
        f"{threshold_label(thresholds[0])} of the target, in coordinates from 0 to 1000 on each axis; answers that "
        "could not be parsed are misses and have no L2 distance. "
        f"In brackets: {level} confidence intervals, robust to clusters of samples by user (CR1, t with users - 1 "
        "degrees of freedom). Differences are in percentage points, paired on the same samples, and not adjusted "
        "for several comparisons."
    )


def _rounded(summary: pd.DataFrame, thresholds: Sequence[float]) -> tuple[list[str], list[list[str]]]:
    further = [threshold_label(threshold) for threshold in thresholds[1:]]
    header = ["experiment", "mode", "users", "samples", "parsed %", "click accuracy %", "difference to vanilla"]
    header += ["mean L2", "median L2", *(f"accuracy at {label} %" for label in further)]
    rows = []
    for row in records(summary):
        users = int(row["users"])
        accuracy = percent_interval(row["click_accuracy_low"], row["click_accuracy_high"])
        gain = "" if pd.isna(row["difference_to_vanilla"]) else points(row["difference_to_vanilla"])
        if gain:
            gain += " " + (points_interval(row["difference_low"], row["difference_high"]) or f"[{no_interval(users)}]")
        cells = [row["experiment"], row["mode"], str(users), f"{row['samples']:,.0f}", percent(row["parse_rate"])]
        cells += [f"{percent(row['click_accuracy'])} {accuracy or f'[{no_interval(users)}]'}", gain]
        cells += [distance(row["mean_l2"]), distance(row["median_l2"])]
        rows.append([*cells, *(percent(row[f"click_accuracy_at_{label}"]) for label in further)])
    return header, rows


def _escape_tex(text: str) -> str:
    escaped = "".join(TEX_ESCAPES.get(character, character) for character in text)
    return escaped.replace("\N{MINUS SIGN}", "$-$")


def _confidence_of(recipe: Mapping[str, Any]) -> float:
    value = recipe.get("confidence")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise UserError(f"confidence: found {value!r}; give a level between 0 and 1, such as 0.95")
    return float(value)


def _read_grid(
    design: ComparisonDesign, thresholds: Sequence[float], metrics_files: Sequence[Path]
) -> dict[tuple[str, str], tuple[dict[str, Any], Path]]:
    """Return (metrics, rows file) of every experiment and user, each exactly once."""
    grid: dict[tuple[str, str], tuple[dict[str, Any], Path]] = {}
    wanted = {(name, user) for name in design.names for user in design.users}
    for path in metrics_files:
        metrics = read_result(path)
        place = metrics.get("experiment"), metrics.get("user")
        if place not in wanted:
            raise UserError(
                f"{path}: experiment {place[0]!r}, user {place[1]!r} is not part of this study; leave it out"
            )
        if place in grid:
            raise UserError(f"{path}: experiment {place[0]!r}, user {place[1]!r} is given twice; leave one out")
        labels = [threshold_label(threshold) for threshold in thresholds]
        if list(metrics.get("click_accuracy_at", {})) != labels:
            raise UserError(f"{path}: not scored at the thresholds {', '.join(labels)}; {RESCORE}")
        rows_file = path.with_suffix(".csv")
        if not rows_file.exists() or digest_file(rows_file) != metrics["files"].get(rows_file.name):
            raise UserError(f"{rows_file}: missing, or not the rows that {path.name} was made from; {RESCORE}")
        grid[place] = metrics, rows_file
    if missing := sorted(wanted - grid.keys()):
        shown = "; ".join(f"experiment {name!r}, user {user!r}" for name, user in missing[:5])
        raise UserError(f"{len(missing)} of {len(wanted)} scores are missing: {shown}; run snakemake again")
    return grid


def _all_samples(
    design: ComparisonDesign, scores: Mapping[tuple[str, str], tuple[dict[str, Any], Path]]
) -> pd.DataFrame:
    """Return the rows of all experiments and users; every experiment has the same samples in the same order."""
    pieces: list[pd.DataFrame] = []
    first: dict[str, list[str]] = {}
    for name in design.names:
        for user in design.users:
            path = scores[name, user][1]
            piece = read_table(path)
            if list(piece["id"]) != first.setdefault(user, list(piece["id"])):
                raise UserError(f"{path}: not the samples that {scores[design.names[0], user][1]} has; {RESCORE}")
            pieces.append(piece.assign(experiment=name))
    samples = pd.concat(pieces, ignore_index=True)
    whole = ["step", "parsed", *(column for column in samples if str(column).startswith("hit_"))]
    samples = samples.astype(dict.fromkeys(whole, int))
    return samples[["experiment", *samples.columns.drop("experiment")]]
