"""Compare: all experiments on all test users, as tables for programs, for people and for papers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.core.formatting import no_interval, percent
from usertune.core.hashing import digest_bytes, digest_file
from usertune.core.manifest import read_manifest, step_manifest, write_result
from usertune.evaluation import table_names
from usertune.evaluation.adapter_matrix import matrix_markdown, matrix_table
from usertune.evaluation.choice import Validation
from usertune.evaluation.group_table import groups_table
from usertune.evaluation.groups import chosen_experiments, groups_markdown, validation_loss, values_of_samples
from usertune.evaluation.hypothesis import hypothesis_table
from usertune.evaluation.lineage import lineage_in_words, lineage_of
from usertune.evaluation.reading_note import reading_note
from usertune.evaluation.recipe import CompareRecipe, ComparisonDesign
from usertune.evaluation.statistics.intervals import estimate, paired_difference
from usertune.evaluation.tables import read_texts, records, with_numbers
from usertune.tasks.metrics import Metric, mean_over_users, threshold_label

PROVENANCE_DIGITS = 16
RESCORE = "delete the file and run snakemake again so that the user is scored again"


def compare(
    recipe: CompareRecipe,
    scores_files: Sequence[Path],
    folder: Path,
    trainings: Sequence[Path] = (),
    validation: Sequence[Path] = (),
) -> None:
    """Write the tables of a study into ``folder``.

    Args:
        recipe: what is compared, at which thresholds and level of confidence.
        scores_files: what the score step wrote, one JSON for each experiment and user; the rows are next to
            each, with the same name and the suffix ``.csv``.
        folder: folder of the tables.
        trainings: manifests of the trainings whose validation losses choose the settings of groups.
        validation: JSON of the score step for each validation user and experiment that chooses a setting by accuracy.
            They are in no table of test users.

    Writes:
        ``samples.csv`` (all rows), ``users.csv`` (metrics of each experiment and user), ``summary.csv`` (one
        row an experiment, see `summary_table`), ``differences.csv`` (one row a pair, see `differences_table`),
        and the summary rounded for people (``summary.md``) and papers (``summary.tex``). Studies with groups also have
        ``groups.csv`` and ``groups.md`` (see `usertune.evaluation.group_table`), those with a matrix of adapters
        ``adapter_matrix.csv`` and ``.md`` (see `usertune.evaluation.adapter_matrix`), and those whose hypothesis names
        comparisons ``hypothesis.csv`` (see `usertune.evaluation.hypothesis`). ``manifest.json`` is written last and
        holds their lineage. The column ``provenance`` of each CSV names that manifest's
        fingerprint.

    Raises:
        UserError: a score is missing, foreign, given twice, damaged, or of other tasks or thresholds; or the primary
            metric applies to no sample.
    """
    scores = _read_grid(recipe, scores_files)
    texts, samples = _all_samples(recipe, scores)
    metrics = _applying(recipe.metrics, samples)
    results = [scores[name, user][0] for name in recipe.names for user in recipe.users]
    trained = {str(training["experiment"]): training for training in map(read_manifest, trainings)}
    validated = _read_validation(recipe, validation)
    losses = {name: validation_loss(training) for name, training in trained.items()}
    further = _further_tables(recipe, metrics[0], samples, Validation(losses, validated))
    inputs: dict[str, Any] = {
        "scores": _outputs(results),
        "validation": _outputs(score for own in validated.values() for score in own.values()),
        "trainings": {name: item["output"] for name, item in trained.items()},
    }
    # Empty roles are left out, as in results of older releases.
    inputs = {role: digests for role, digests in inputs.items() if digests or role == "scores"}
    said = step_manifest(recipe, inputs)
    lineage = lineage_of(recipe, said["fingerprint"], results)
    tables = {
        table_names.SAMPLES: texts,
        table_names.USERS: users_table(recipe, metrics, scores),
        table_names.SUMMARY: summary_table(recipe, metrics, recipe.confidence, samples),
        **further,
    }
    outputs = _as_texts(recipe, metrics, tables, lineage)
    for name, text in outputs.items():
        write_text(folder / name, text)
    files = {name: digest_bytes(text.encode("utf-8")) for name, text in outputs.items()}
    write_result(folder / table_names.MANIFEST, {**said, **lineage, "files": files})


def _as_texts(
    recipe: CompareRecipe, metrics: Sequence[Metric], tables: Mapping[str, pd.DataFrame], lineage: Mapping[str, Any]
) -> dict[str, str]:
    """Return the tables for programs, and those for people and for papers, by file name."""
    summary, source = tables[table_names.SUMMARY], lineage["fingerprint"][:PROVENANCE_DIGITS]
    found = {
        name: table.assign(provenance=source).to_csv(index=False, lineterminator="\n") for name, table in tables.items()
    }
    lines, note = lineage_in_words(lineage), reading_note(recipe, summary)
    found[table_names.SUMMARY_MD] = markdown(summary, metrics, note) + "\n<!--\n" + "\n".join(lines) + "\n-->\n"
    found |= _further_markdown(recipe, metrics[0], tables)
    found[table_names.SUMMARY_TEX] = "".join(f"% {line}\n" for line in lines) + latex(summary, metrics, note)
    return found


def _further_tables(
    recipe: CompareRecipe, primary: Metric, samples: pd.DataFrame, validation: Validation
) -> dict[str, pd.DataFrame]:
    """Return the tables of differences, of groups and of the hypothesis, in which a group is its chosen setting."""
    groups = groups_table(recipe, primary, samples, validation)
    values = values_of_samples(recipe, primary.column, samples, chosen_experiments(recipe, groups))
    users = samples.loc[samples["experiment"] == recipe.names[0], "user"].reset_index(drop=True)
    tables = {table_names.DIFFERENCES: differences_table(primary, recipe.confidence, users, values)}
    if recipe.groups:
        tables[table_names.GROUPS] = groups
    if recipe.matrices:
        tables[table_names.MATRIX] = matrix_table(recipe, primary, samples)
    if recipe.comparisons:
        tables[table_names.HYPOTHESIS] = hypothesis_table(recipe.comparisons, primary, recipe.confidence, users, values)
    return tables


def _further_markdown(recipe: CompareRecipe, primary: Metric, tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    found = {}
    if recipe.groups:
        groups = tables[table_names.GROUPS]
        found[table_names.GROUPS_MD] = groups_markdown(groups[~groups["group"].isin(recipe.matrix_groups)], primary)
    if recipe.matrices:
        found[table_names.MATRIX_MD] = matrix_markdown(tables[table_names.MATRIX], primary, recipe.confidence)
    return found


def _applying(metrics: Sequence[Metric], samples: pd.DataFrame) -> list[Metric]:
    """Return the metrics without those that no sample has a value of, such as the share in boxes of data without boxes.

    Raises:
        UserError: the primary metric is one of those.
    """
    found = [metric for metric in metrics if not metric.partial or samples[metric.column].notna().any()]
    if metrics[0] not in found:
        raise UserError(
            f"evaluation.primary: {metrics[0].name} is over {metrics[0].over or 'samples of its task'}, and the test "
            "users have no such sample; choose another metric"
        )
    return found


def summary_table(
    design: ComparisonDesign, metrics: Sequence[Metric], confidence: float, samples: pd.DataFrame
) -> pd.DataFrame:
    """Return one row an experiment, over all samples of all users, with equal weight for each sample.

    Metrics that need not apply to every sample also have the number of samples with a value, in ``<name>_samples``.

    The interval of the primary metric (the first) is at level ``confidence`` and robust to users (see
    `usertune.evaluation.statistics.intervals`). ``difference_to_vanilla`` is that of the primary metric, paired on the
    same samples; it is empty for the baseline (the first experiment of mode vanilla) and in studies without one.
    """
    primary = metrics[0]
    by_name = {name: samples[samples["experiment"] == name].reset_index(drop=True) for name in design.names}
    rows = []
    for experiment in design.experiments:
        own = by_name[experiment.name]
        values = own[primary.column]
        found = estimate(values, own, confidence, primary.bounds)
        row: dict[str, Any] = {
            "experiment": experiment.name,
            "mode": experiment.kind,
            "users": own["user"].nunique(),
            "samples": len(own),
            "parse_rate": own["parsed"].mean(),
            "confidence": confidence,
            primary.name: found.mean,
            f"{primary.name}_low": found.low,
            f"{primary.name}_high": found.high,
        }
        others = {metric.name: _over_all(metric, own) for metric in metrics[1:]}
        further = {metric.name for metric in metrics if metric.further}
        row |= {name: value for name, value in others.items() if name not in further}
        row |= {"difference_to_vanilla": None, "difference_low": None, "difference_high": None}
        if design.baseline is not None and experiment.name != design.baseline:
            baseline = by_name[design.baseline][primary.column]
            gain = paired_difference(values, baseline, own, confidence, primary.bounds)
            row |= {"difference_to_vanilla": gain.mean, "difference_low": gain.low, "difference_high": gain.high}
        row |= {name: others[name] for name in others if name in further}
        partial = [metric for metric in metrics if metric.partial and not metric.further]
        rows.append(row | {f"{metric.name}_samples": int(own[metric.column].count()) for metric in partial})
    return pd.DataFrame(rows)


def _over_all(metric: Metric, samples: pd.DataFrame) -> float | None:
    """Return the aggregate of a metric over the samples of all users, or the mean of the users' own aggregates.

    The aggregate of a user with folds is the mean of those of its folds.
    """
    if metric.across == "samples":
        return float(samples[metric.column].agg(metric.aggregate))
    parts = ["user", "fold"] if "fold" in samples else ["user"]
    of_parts = samples.groupby(parts, sort=False)[metric.column].agg(metric.aggregate).dropna()
    return mean_over_users(list(own) for _, own in of_parts.groupby(level=0, sort=False))


def differences_table(
    primary: Metric, confidence: float, users: pd.Series, values: Mapping[str, pd.Series]
) -> pd.DataFrame:
    """Return one row for each pair of experiments: how far the later one is above the earlier in the primary metric.

    ``difference`` (fractions, where the metric is one) is paired on the same samples, with the interval of
    `usertune.evaluation.statistics.intervals.paired_difference`. Two overlapping intervals of
    single experiments do not show that the two are equal; this table answers that question.

    Args:
        primary: the metric that is compared.
        confidence: level of the intervals.
        users: the user of each sample.
        values: experiment or group -> the metric of each sample; groups follow the experiments.
    """
    own = users.to_frame("user")
    rows = []
    for earlier, later in combinations(values, 2):
        gain = paired_difference(values[later], values[earlier], own, confidence, primary.bounds)
        counted = users[values[later].notna() & values[earlier].notna()]
        rows.append((later, earlier, counted.nunique(), len(counted), confidence, gain.mean, gain.low, gain.high))
    names = ["experiment", "baseline", "users", "samples", "confidence", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def users_table(
    design: ComparisonDesign, metrics: Sequence[Metric], scores: Mapping[tuple[str, str], tuple[dict[str, Any], Path]]
) -> pd.DataFrame:
    """Return one row for each experiment and user with the metrics that the score step found."""
    rows = []
    for name in design.names:
        for user in design.users:
            score, _ = scores[name, user]
            row = {"experiment": name, "user": user}
            row |= {key: score[key] for key in ("samples", "parsed", "parse_rate")}
            rows.append(row | {metric.name: metric.of(score) for metric in metrics})
    return pd.DataFrame(rows)


def markdown(summary: pd.DataFrame, metrics: Sequence[Metric], note: str) -> str:
    """Return the summary, rounded, as a Markdown table with a note on how to read it."""
    shown = _rounded(summary, metrics)
    shown["experiment"] = [f"`{name}`" for name in shown["experiment"]]
    sides = ["left", "left", *["right"] * (len(shown.columns) - 2)]
    table = shown.to_markdown(index=False, tablefmt="pipe", disable_numparse=True, colalign=sides)
    return f"{table}\n\n{note}\n"


def latex(summary: pd.DataFrame, metrics: Sequence[Metric], note: str) -> str:
    """Return the summary, rounded, as a LaTeX ``tabular`` in the style of the booktabs package."""
    shown = _rounded(summary, metrics)
    style = shown.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    table = style.to_latex(hrules=True, column_format=f"ll{'r' * (len(shown.columns) - 2)}")
    # LaTeX has no glyph for the minus sign in most text fonts.
    return rf"% Needs \usepackage{{booktabs}}. {note}" + "\n" + table.replace("\N{MINUS SIGN}", "$-$")


def _rounded(summary: pd.DataFrame, metrics: Sequence[Metric]) -> pd.DataFrame:
    """Return the summary as people read it: every cell a text."""
    primary, *others = (metric for metric in metrics if metric.name in summary)
    header = ["experiment", "mode", "users", "samples", "parsed %", primary.heading, "difference to vanilla"]
    header += [metric.heading for metric in others]
    rows = []
    for row in records(summary):
        missing = f"[{no_interval(int(row['users']))}]"
        interval = primary.interval(row[f"{primary.name}_low"], row[f"{primary.name}_high"]) or missing
        gain = "" if pd.isna(row["difference_to_vanilla"]) else primary.difference(row["difference_to_vanilla"])
        if gain:
            gain += f" {primary.difference_interval(row['difference_low'], row['difference_high']) or missing}"
        cells = [row["experiment"], row["mode"], f"{row['users']:.0f}", f"{row['samples']:,.0f}"]
        cells += [percent(row["parse_rate"]), f"{primary.text(row[primary.name])} {interval}", gain]
        rows.append([*cells, *(metric.text(row[metric.name]) for metric in others)])
    return pd.DataFrame(rows, columns=header)


def _outputs(scores: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {f"{score['experiment']} {score['user']}": score["output"] for score in scores}


def _read_validation(design: CompareRecipe, scores_files: Sequence[Path]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return {experiment: {validation user: score}} of all experiments that are chosen by accuracy."""
    chosen = {group for group, how in design.select.items() if how == "accuracy"}
    names = [item.name for item in design.experiments if item.group in chosen]
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in names}
    for (name, user), (score, _) in _read_scores(design, scores_files, names, design.validation_users).items():
        found[name][user] = score
    return found


def _read_grid(
    design: CompareRecipe, scores_files: Sequence[Path]
) -> dict[tuple[str, str], tuple[dict[str, Any], Path]]:
    """Return (score, rows file) of every experiment and test user."""
    return _read_scores(design, scores_files, design.names, design.users)


def _read_scores(
    design: CompareRecipe, scores_files: Sequence[Path], names: Sequence[str], users: Sequence[str]
) -> dict[tuple[str, str], tuple[dict[str, Any], Path]]:
    """Return (score, rows file) of some experiments and users, each exactly once."""
    grid: dict[tuple[str, str], tuple[dict[str, Any], Path]] = {}
    wanted = {(name, user) for name in names for user in users}
    folds: dict[str, Any] = {}
    for path in scores_files:
        score = read_manifest(path)
        key = score.get("experiment"), score.get("user")
        if key not in wanted:
            raise UserError(f"{path}: experiment {key[0]!r}, user {key[1]!r} is not part of this study; leave it out")
        if key in grid:
            raise UserError(f"{path}: experiment {key[0]!r}, user {key[1]!r} is given twice; leave one out")
        said = score["recipe"]
        tasks = said["task"], *said.get("further_tasks", ())
        if said.get("folds") != folds.setdefault("first", said.get("folds")):
            raise UserError(f"{path}: not scored with the folds of the other scores; {RESCORE}")
        if (tasks, tuple(said["thresholds"])) != (design.tasks, design.thresholds):
            labels = ", ".join(threshold_label(threshold) for threshold in design.thresholds)
            asked = ", ".join(design.tasks)
            raise UserError(f"{path}: not scored for {asked} at the thresholds {labels}; {RESCORE}")
        rows_file = path.with_suffix(".csv")
        if not rows_file.exists() or digest_file(rows_file) != score["files"].get(rows_file.name):
            raise UserError(f"{rows_file}: missing, or not the rows that {path.name} was made from; {RESCORE}")
        grid[key] = score, rows_file
    if missing := sorted(wanted - grid.keys()):
        shown = "; ".join(f"experiment {name!r}, user {user!r}" for name, user in missing[:5])
        raise UserError(f"{len(missing)} of {len(wanted)} scores are missing: {shown}; run snakemake again")
    return grid


def _all_samples(
    design: ComparisonDesign, scores: Mapping[tuple[str, str], tuple[dict[str, Any], Path]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of all experiments and users, as texts and with numbers.

    Every experiment has the same samples in the same order.
    """
    texts: list[pd.DataFrame] = []
    numbers: list[pd.DataFrame] = []
    first: dict[str, list[str]] = {}
    for name in design.names:
        for user in design.users:
            path = scores[name, user][1]
            piece = read_texts(path)
            if list(piece["id"]) != first.setdefault(user, list(piece["id"])):
                raise UserError(f"{path}: not the samples that {scores[design.names[0], user][1]} has; {RESCORE}")
            piece.insert(0, "experiment", name)
            texts.append(piece)
            numbers.append(with_numbers(piece, path))
    return pd.concat(texts, ignore_index=True), pd.concat(numbers, ignore_index=True)
