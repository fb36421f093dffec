"""The summary: one row for each experiment; and the metrics of each user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from usertune.evaluation.paired import gap_between
from usertune.evaluation.recipe import CompareRecipe, ComparisonDesign
from usertune.evaluation.statistics.intervals import by_user, effective_users, mean_of_samples, mean_of_users
from usertune.evaluation.statistics.who import worst_decile
from usertune.tasks.metrics import Metric

# End of the columns that are over samples, with equal weight for each; the others are over users.
MICRO = "_micro"


def summary_table(
    recipe: CompareRecipe,
    metrics: Sequence[Metric],
    samples: pd.DataFrame,
    users: pd.DataFrame,
    differences: pd.DataFrame,
) -> pd.DataFrame:
    """Return one row an experiment.

    A metric is the mean over users of the numbers in ``users.csv``, with equal weight for each user;
    ``<name>_micro`` is over all samples. Those of further tasks are aggregated as the task says (`Metric.across`)
    instead. The primary metric (the first) has intervals of both in ``_low`` and ``_high``, its standard deviation
    over users in ``_sd``, the mean over the worst tenth of users in ``_worst_decile``, and in ``_where_all_parsed``
    its mean over users on the samples (``where_all_parsed_samples``) that all experiments parsed.
    ``difference_to_vanilla`` is that of ``differences.csv``; it is empty for the baseline (the first experiment of
    mode vanilla) and in studies without one. Metrics that need not apply to every sample also have the number of
    samples with a value, in ``<name>_samples``.

    Args:
        recipe: the experiments and users, and the level of the intervals.
        metrics: the metrics, the primary one first.
        samples: the rows of all experiments.
        users: see `users_table`.
        differences: see `usertune.evaluation.paired.differences_table`.
    """
    design, confidence, primary = recipe, recipe.confidence, metrics[0]
    frames = {name: samples[samples["experiment"] == name].reset_index(drop=True) for name in design.names}
    parsed = pd.concat([frame["parsed"] for frame in frames.values()], axis=1).min(axis=1) == 1
    rows = []
    for experiment in design.experiments:
        own, of_users = frames[experiment.name], users[users["experiment"] == experiment.name]
        row: dict[str, Any] = {
            "experiment": experiment.name,
            "mode": experiment.kind,
            "users": own["user"].nunique(),
            "samples": len(own),
            **_primary(primary, confidence, own, of_users, parsed),
        }
        others = {metric.name: _value(metric, own, of_users) for metric in metrics[1:]}
        further = {metric.name for metric in metrics if metric.further}
        row |= {name: value for name, value in others.items() if name not in further}
        row |= {"difference_to_vanilla": None, "difference_low": None, "difference_high": None}
        if design.baseline is not None and experiment.name != design.baseline:
            gap = gap_between(differences, experiment.name, design.baseline)
            row |= {"difference_to_vanilla": gap.difference, "difference_low": gap.low, "difference_high": gap.high}
        row |= {name: others[name] for name in others if name in further}
        row |= {f"{metric.name}{MICRO}": _over_samples(metric, own) for metric in metrics[1:] if not metric.task}
        partial = [metric for metric in metrics if metric.partial and not metric.further]
        rows.append(row | {f"{metric.name}_samples": int(own[metric.column].count()) for metric in partial})
    return pd.DataFrame(rows)


def _primary(
    primary: Metric, confidence: float, own: pd.DataFrame, of_users: pd.DataFrame, parsed: pd.Series
) -> dict[str, Any]:
    """Return the parse rate, and what the summary says of the primary metric; see `summary_table`."""
    name, values = primary.name, of_users[primary.name].dropna().astype(float)
    table = by_user(own[primary.column], own["user"])
    macro = mean_of_users(values, confidence, primary.bounds)
    micro = mean_of_samples(table, confidence, primary.bounds)
    where = by_user(own[primary.column][parsed], own["user"])
    return {
        "effective_users": effective_users(table["count"].tolist()),
        "largest_share": table["count"].max() / table["count"].sum(),
        "parse_rate": of_users["parse_rate"].mean(),
        f"parse_rate{MICRO}": own["parsed"].mean(),
        "confidence": confidence,
        **{name: macro.mean, f"{name}_low": macro.low, f"{name}_high": macro.high},
        f"{name}_sd": values.std(ddof=1),
        f"{name}_worst_decile": worst_decile(values, primary.better == "higher"),
        **{f"{name}{MICRO}": micro.mean, f"{name}{MICRO}_low": micro.low, f"{name}{MICRO}_high": micro.high},
        f"{name}_where_all_parsed": where["mean"].mean() if len(where) else None,
        "where_all_parsed_samples": int(where["count"].sum()),
    }


def _value(metric: Metric, own: pd.DataFrame, of_users: pd.DataFrame) -> float:
    """Return the mean over users; metrics of a further task repeat another work, and are aggregated as they say."""
    if metric.task and metric.across == "samples":
        return _over_samples(metric, own)
    return float(of_users[metric.name].astype(float).mean())


def _over_samples(metric: Metric, samples: pd.DataFrame) -> float:
    return float(samples[metric.column].agg(metric.aggregate))


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
