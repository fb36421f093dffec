"""The tables of a study for papers: experiments, further metrics, users and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from usertune.core.formatting import is_missing, p_text
from usertune.evaluation import table_names
from usertune.evaluation.paper import (
    MISSING,
    Column,
    Paper,
    latex_table,
    markdown_table,
    plain,
    short_ids,
    significance,
)
from usertune.evaluation.tables import records
from usertune.tasks.metrics import Metric

MARKS = "* p < 0.05, ** p < 0.01, *** p < 0.001 (sign flips of users, corrected by Holm's method)."

# No experiment can have such a name.
USER, SAMPLES, GROUP = "user:", "samples:", "group:"


def paper_tables(tables: Mapping[str, pd.DataFrame], metrics: Sequence[Metric], note: str) -> dict[str, str]:
    """Return ``{file: text}`` of a study: LaTeX, and of users and comparisons Markdown too.

    Args:
        tables: the tables of the comparison.
        metrics: the metrics, the primary one first.
        note: the paragraph that says what the numbers are.
    """
    summary, differences = tables[table_names.SUMMARY], tables[table_names.DIFFERENCES]
    groups = of_groups(tables[table_names.BY_GROUP], list(summary["experiment"]), metrics[0])
    users, compared = of_users(tables[table_names.USERS], metrics[0]), of_differences(differences, metrics[0])
    return {
        table_names.SUMMARY_TEX: latex_table(of_experiments(summary, differences, metrics[0], note)),
        table_names.METRICS_TEX: latex_table(of_metrics(summary, metrics)),
        table_names.BY_GROUP_TEX: latex_table(groups),
        table_names.BY_GROUP_MD: markdown_table(groups),
        table_names.USERS_TEX: latex_table(users),
        table_names.USERS_MD: markdown_table(users),
        table_names.DIFFERENCES_TEX: latex_table(compared),
        table_names.DIFFERENCES_MD: markdown_table(compared),
    }


def of_experiments(summary: pd.DataFrame, differences: pd.DataFrame, primary: Metric, note: str) -> Paper:
    """Return the experiments with the primary metric, its interval, and the difference to the baseline."""
    p_values = {
        (row["experiment"], row["baseline"]): row["p_holm"] for row in records(differences) if row["corrected_for"] > 0
    }
    baseline = {str(row["experiment"]) for row in records(summary) if is_missing(row["difference_to_vanilla"])}
    rows = []
    for row in records(summary):
        marks = [
            significance(p) for pair, p in p_values.items() if row["experiment"] in pair and (set(pair) & baseline)
        ]
        ends = (row[f"{primary.name}_low"], row[f"{primary.name}_high"])
        rows.append(
            {
                "experiment": row["experiment"],
                "value": number(primary, row[primary.name]),
                "interval": primary.interval(*ends),
                "difference": number(primary, row["difference_to_vanilla"], sign=True),
                "mark": marks[0] if marks and row["experiment"] not in baseline else "",
                "ends": primary.difference_interval(row["difference_low"], row["difference_high"]),
                "micro": number(primary, row[f"{primary.name}_micro"]),
                "parsed": plain(row["parse_rate"], 1, 100),
            }
        )
    columns = [
        Column("experiment", "experiment"),
        Column("value", primary.heading, number=True),
        Column("interval", "", joined=True),
        Column("difference", "difference to vanilla", number=True),
        Column("mark", "", joined=True),
        Column("ends", "", joined=True),
        Column("micro", "over samples", number=True),
        Column("parsed", "parsed (%)", number=True),
    ]
    if summary["difference_to_vanilla"].isna().all():
        columns = [column for column in columns if column.name not in ("difference", "mark", "ends")]
    frame = pd.DataFrame(rows)
    bold = {"value": best(summary[primary.name], primary), "micro": best(summary[f"{primary.name}_micro"], primary)}
    return Paper(frame, columns, f"{note} Bold: the best. {MARKS}", bold)


def of_metrics(summary: pd.DataFrame, metrics: Sequence[Metric]) -> Paper:
    """Return all metrics, means over users, with a row for each experiment."""
    shown = [metric for metric in metrics if metric.name in summary]
    frame = pd.DataFrame({"experiment": summary["experiment"]})
    for metric in shown:
        frame[metric.name] = [number(metric, value) for value in summary[metric.name]]
    columns = [Column("experiment", "experiment"), *(Column(each.name, each.heading, number=True) for each in shown)]
    bold = {metric.name: best(summary[metric.name], metric) for metric in shown}
    note = "Means over users, with equal weight for each; metrics of a further task are aggregated as it says."
    return Paper(frame, columns, f"{note} Bold: the best.", bold)


def of_users(users: pd.DataFrame, primary: Metric) -> Paper:
    """Return the primary metric of each user, with a column for each experiment."""
    names = list(dict.fromkeys(users["experiment"]))
    wide = users.pivot(index="user", columns="experiment", values=primary.name).loc[list(dict.fromkeys(users["user"]))]
    samples = users.drop_duplicates("user").set_index("user")["samples"]
    short = short_ids([str(user) for user in wide.index])
    frame = pd.DataFrame({USER: [short[str(user)] for user in wide.index]})
    frame[SAMPLES] = [f"{samples[user]:.0f}" for user in wide.index]
    for name in names:
        frame[name] = [number(primary, value) for value in wide[name].astype(float)]
    bold: dict[str, set[int]] = {name: set() for name in names}
    for place, (_, row) in enumerate(wide[names].astype(float).iterrows()):
        for index in best(row, primary):
            bold[names[index]].add(place)
    columns = [Column(USER, "user"), Column(SAMPLES, "samples", number=True)]
    columns += [Column(name, name.replace("_", " "), number=True) for name in names]
    return Paper(
        frame,
        columns,
        f"{primary.heading[:1].upper()}{primary.heading[1:]} of each test user. Bold: the best of a user.",
        bold,
    )


def of_groups(by_group: pd.DataFrame, names: Sequence[str], primary: Metric) -> Paper:
    """Return the primary metric of each group of samples, with a column for each experiment."""
    own = by_group[by_group["experiment"].isin(names)]
    rows, bold = [], {name: set[int]() for name in names}
    for place, ((by, value), cells) in enumerate(own.groupby(["by", "value"], sort=False)):
        macro = cells.set_index("experiment")["macro"].astype(float).reindex(list(names))
        counts = {USER: f"{cells['users'].max():.0f}", SAMPLES: f"{cells['samples'].max():.0f}"}
        rows.append({GROUP: f"{by}: {value}", **counts, **{name: number(primary, macro[name]) for name in names}})
        for index in best(macro, primary):
            bold[names[index]].add(place)
    columns = [Column(GROUP, "samples with"), Column(USER, "users", number=True)]
    columns += [Column(SAMPLES, "samples", number=True)]
    columns += [Column(name, name.replace("_", " "), number=True) for name in names]
    note = f"{primary.heading}: means over the users who have such samples, each with equal weight. Bold: the best."
    return Paper(pd.DataFrame(rows, columns=[column.name for column in columns]), columns, note, bold)


def of_differences(differences: pd.DataFrame, primary: Metric) -> Paper:
    """Return the stated comparisons; all pairs, if none is stated."""
    stated = differences[differences["corrected_for"] > 0]
    table = stated if len(stated) else differences
    rows = [
        {
            "experiment": row["experiment"],
            "baseline": row["baseline"],
            "difference": number(primary, row["difference"], sign=True),
            "mark": significance(row["p_holm"]),
            "ends": primary.difference_interval(row["low"], row["high"]),
            "p": p_text(row["p_holm"]) if not is_missing(row["p_holm"]) else "",
            "helped": "" if is_missing(row["helped"]) else f"{row['helped']:.0f} / {row['hurt']:.0f}",
            "detectable": number(primary, row["smallest_detectable"]),
        }
        for row in records(table)
    ]
    columns = [
        Column("experiment", "experiment"),
        Column("baseline", "compared with"),
        Column("difference", "difference", number=True),
        Column("mark", "", joined=True),
        Column("ends", "", joined=True),
        Column("p", "p"),
        Column("helped", "users helped / hurt"),
        Column("detectable", "detectable gain", number=True),
    ]
    note = (
        f"Differences of {primary.heading}: means over users of paired differences, with t intervals. {MARKS} Helped "
        "and hurt: beyond the chance of a user's own samples. Detectable: the smallest gain that such a study finds in "
        "80 % of cases."
    )
    return Paper(pd.DataFrame(rows, columns=[column.name for column in columns]), columns, note)


def number(metric: Metric, value: float | None, sign: bool = False) -> str:
    """Return a metric's number as siunitx reads it; see `plain`."""
    return plain(value, metric.digits, 100 if metric.unit == "%" else 1, sign)


def best(values: pd.Series, metric: Metric) -> set[int]:
    """Return the places of the best values, as rounded; none if all are equal or only one is there."""
    texts = [number(metric, value) for value in values]
    known = [float(text) for text in texts if text != MISSING]
    if len(set(known)) < 2:
        return set()
    top = max(known) if metric.better == "higher" else min(known)
    return {place for place, text in enumerate(texts) if text != MISSING and np.isclose(float(text), top)}
