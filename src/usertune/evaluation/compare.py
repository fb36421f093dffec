"""Compare: all experiments on all test users, as tables for programs, for people and for papers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.core.hashing import digest_bytes, digest_file
from usertune.core.manifest import read_manifest, step_manifest, write_result
from usertune.evaluation import table_names
from usertune.evaluation.adapter_matrix import matrix_markdown, matrix_table
from usertune.evaluation.by_group import by_group_table
from usertune.evaluation.choice import Validation
from usertune.evaluation.group_table import groups_table
from usertune.evaluation.groups import chosen_experiments, groups_markdown, validation_loss, values_of_samples
from usertune.evaluation.lineage import lineage_in_words, lineage_of
from usertune.evaluation.paired import Answers, differences_table, stated_pairs
from usertune.evaluation.paper_tables import paper_tables
from usertune.evaluation.reading_note import reading_note
from usertune.evaluation.recipe import CompareRecipe, ComparisonDesign
from usertune.evaluation.rows import read_many, write_rows
from usertune.evaluation.summary_table import summary_table, users_table
from usertune.evaluation.summary_text import markdown
from usertune.tasks.metrics import Metric, threshold_label

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
        ``samples.csv`` (all rows), ``users.csv`` (metrics of each experiment and user), ``summary.csv`` (one row an
        experiment, see `summary_table`), ``differences.csv`` (one row a pair, see `differences_table`), and those
        rounded for people (``.md``) and papers (``.tex``; ``metrics.tex`` has all metrics). Studies with groups also
        have ``groups.csv`` and ``groups.md`` (see `usertune.evaluation.group_table`), those with a matrix of adapters
        ``adapter_matrix.csv`` and ``.md`` (see `usertune.evaluation.adapter_matrix`), and those whose hypothesis
        names comparisons ``hypothesis.csv``, which is their rows of ``differences.csv``. ``manifest.json`` is written
        last and holds their lineage. The column ``provenance`` of each CSV names that manifest's fingerprint.

    Raises:
        UserError: a score is missing, foreign, given twice, damaged, or of other tasks or thresholds; or the primary
            metric applies to no sample.
    """
    scores = _read_grid(recipe, scores_files)
    samples = _all_samples(recipe, scores)
    metrics = _applying(recipe.metrics, samples)
    results = [scores[name, user][0] for name in recipe.names for user in recipe.users]
    trained = {str(training["experiment"]): training for training in map(read_manifest, trainings)}
    validated = _read_validation(recipe, validation)
    losses = {name: validation_loss(training) for name, training in trained.items()}
    users = users_table(recipe, metrics, scores)
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
        table_names.USERS: users,
        **_further_tables(recipe, metrics, samples, users, Validation(losses, validated)),
    }
    del samples
    rows = [(name, scores[name, user][1]) for name in recipe.names for user in recipe.users]
    source = lineage["fingerprint"][:PROVENANCE_DIGITS]
    files = {table_names.SAMPLES: write_rows(folder / table_names.SAMPLES, rows, source)}
    for name, text in _as_texts(recipe, metrics, tables, lineage).items():
        write_text(folder / name, text)
        files[name] = digest_bytes(text.encode("utf-8"))
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
    for name, text in paper_tables(tables, metrics, note).items():
        found[name] = "".join(f"% {line}\n" for line in lines if name.endswith(".tex")) + text
    return found


def _further_tables(
    recipe: CompareRecipe,
    metrics: Sequence[Metric],
    samples: pd.DataFrame,
    users: pd.DataFrame,
    validation: Validation,
) -> dict[str, pd.DataFrame]:
    """Return the tables of experiments, differences and groups. In comparisons a group is its chosen setting."""
    primary = metrics[0]
    groups = groups_table(recipe, primary, samples, validation)
    chosen = chosen_experiments(recipe, groups)
    first = samples[samples["experiment"] == recipe.names[0]].reset_index(drop=True)
    values, parsed = (values_of_samples(recipe, key, samples, chosen) for key in (primary.column, "parsed"))
    stated = stated_pairs(recipe, list(chosen))
    answers = Answers(first["user"], values, parsed)
    differences = differences_table(primary, recipe.confidence, answers, stated)
    tables = {
        table_names.SUMMARY: summary_table(recipe, metrics, samples, users, differences),
        table_names.DIFFERENCES: differences,
        table_names.BY_GROUP: by_group_table(recipe, primary, first, answers),
    }
    if recipe.groups:
        tables[table_names.GROUPS] = groups
    if recipe.matrices:
        tables[table_names.MATRIX] = matrix_table(recipe, primary, samples)
    if recipe.comparisons:
        tables[table_names.HYPOTHESIS] = differences.iloc[: len(stated)]
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
) -> pd.DataFrame:
    """Return the rows of all experiments and users, without long texts.

    Every experiment has the same samples in the same order.
    """
    tables: list[pa.Table] = []
    lengths: list[list[int]] = []
    for name in design.names:
        table, counts = read_many([scores[name, user][1] for user in design.users])
        if tables and (counts != lengths[0] or table["id"] != tables[0]["id"]):
            user = _first_difference(design.users, tables[0]["id"], lengths[0], table["id"], counts)
            first, other = scores[design.names[0], user][1], scores[name, user][1]
            raise UserError(f"{other}: not the samples that {first} has; {RESCORE}")
        lengths.append(counts)
        tables.append(table.add_column(0, "experiment", pa.array([name] * len(table), pa.string())))
    samples: pd.DataFrame = pa.concat_tables(tables, promote_options="default").to_pandas()
    # Categories make groups of a million rows in a moment.
    samples["user"] = pd.Categorical(samples["user"], categories=design.users)
    return samples


def _first_difference(
    users: Sequence[str], first: pa.ChunkedArray, first_counts: list[int], other: pa.ChunkedArray, counts: list[int]
) -> str:
    """Return the first user whose ids differ."""
    start = 0
    for user, length, own in zip(users, first_counts, counts, strict=True):
        if own != length or other.slice(start, length) != first.slice(start, length):
            return user
        start += length
    raise AssertionError("nothing differs")
