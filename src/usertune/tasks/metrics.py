"""Metrics: what is measured of an answer, how it is aggregated over samples, and how the number is written.

A task declares its metrics as ``METRICS`` in its module. Scores, tables, figures and report follow from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any, Literal

from usertune.core.formatting import interval, number, signed

AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {"mean": fmean, "median": median}


@dataclass(frozen=True)
class AtThresholds:
    """How a metric is named that is measured at every threshold of the study (``evaluation.thresholds``).

    Args:
        title: title at the further thresholds, with ``{}`` for the threshold: ``accuracy at {}``.
        condition: what the threshold means: ``within {} of the target``.
    """

    title: str
    condition: str


@dataclass(frozen=True)
class Metric:
    """One metric of a task.

    Args:
        name: key of the aggregate in a user's scores and column of the tables: ``click_accuracy``.
        title: what people read: ``click accuracy``.
        column: column of the rows of scores, with one value a sample. Metrics that aggregate the same values in
            different ways share the column and ``measure``.
        measure: returns the value of a sample from the parsed answer and the target, as the task reads them; where
            ``at`` is given, the threshold is its third argument.
        aggregate: ``mean`` or ``median``, over the rows that have a value.
        better: whether higher or lower values are better.
        unit: ``%`` for fractions, which people read as percentages; otherwise what follows the number, if anything.
        digits: decimals that people read; tables for programs keep all.
        unparsed: value of a sample with an unparsed answer, so that the metric is over all samples; None leaves these
            samples out, so that it is over the parsed answers only.
        bounds: smallest and largest value of a sample, at which confidence intervals end.
        at: set where the metric is measured at every threshold of the study.
        episode: combines the values of an episode's samples into one (``min``: every sample counts). The aggregate is
            then over episodes, and the column holds the value in the last row of each episode only.
        applies: whether the metric applies to a sample with this target; the others have no value, whatever the answer.
            None: it applies to all samples.
        over: the samples that it applies to, in words: ``samples with a box``.
        across: how several users are aggregated: ``samples``: over all their samples; ``users``: as the mean of the
            users' own aggregates, where that of a user with folds is the mean of its folds' aggregates.
        threshold, family: set by `at_thresholds`: the threshold, and the name that the task declares.
        task: name of the further task that measures it (see `of_further_task`); empty for the dataset's own task.
    """

    name: str
    title: str
    column: str
    measure: Callable[..., float | None]
    aggregate: Literal["mean", "median"] = "mean"
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""
    digits: int = 1
    unparsed: float | None = None
    bounds: tuple[float, float] = (float("-inf"), float("inf"))
    at: AtThresholds | None = None
    episode: Callable[[Sequence[float]], float] | None = None
    applies: Callable[[Any], bool] | None = None
    over: str = ""
    across: Literal["samples", "users"] = "samples"
    threshold: float | None = None
    family: str = ""
    task: str = ""

    @property
    def heading(self) -> str:
        """Title and unit, for the head of a column: ``accuracy at 70 (%)``."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def condition(self) -> str:
        """What counts at the metric's threshold; empty where it has none."""
        return self.at.condition.format(threshold_label(self.threshold)) if self.at and self.threshold else ""

    @property
    def partial(self) -> bool:
        """Whether there may be samples that the metric does not apply to."""
        return self.applies is not None or bool(self.task)

    def value(self, answer: Any, target: Any) -> float | None:
        """Return the value of one sample; ``answer`` is None where it is unparsed."""
        if self.applies is not None and not self.applies(target):
            return None
        if answer is None:
            return self.unparsed
        return self.measure(answer, target) if self.threshold is None else self.measure(answer, target, self.threshold)

    @property
    def further(self) -> bool:
        """Whether this is the metric at another than the first threshold."""
        return self.threshold is not None and self.name != self.family

    def of(self, score: Mapping[str, Any]) -> float | None:
        """Return the aggregate of this metric from what `aggregates` returned."""
        values = score if self.threshold is None else score[f"{self.family}_at"]
        found: float | None = values[self.name if self.threshold is None else threshold_label(self.threshold)]
        return found

    def text(self, value: float | None) -> str:
        """Return an aggregate as people read it, without the unit: ``34.2``."""
        return number(value, self.digits, self._scale)

    def interval(self, low: float | None, high: float | None) -> str:
        """Return ``[30.1, 38.3]``, or an empty text where there is no interval."""
        return interval(self.text(low), self.text(high))

    def difference(self, value: float | None) -> str:
        """Return a difference of two aggregates, always with its sign: ``+8.2``."""
        return signed(value, self.digits, self._scale)

    def difference_interval(self, low: float | None, high: float | None) -> str:
        """Return ``[+4.0, +12.4]``, or an empty text where there is no interval."""
        return interval(self.difference(low), self.difference(high))

    @property
    def _scale(self) -> int:
        return 100 if self.unit == "%" else 1


def at_thresholds(
    metrics: Sequence[Metric], thresholds: Sequence[float], primary: str | None = None
) -> tuple[Metric, ...]:
    """Return a task's metrics as a study measures them: those of the first threshold, then those of the further ones.

    The primary one comes first: it is compared, with intervals, and makes the headline.

    Args:
        metrics: the metrics of the task, and of further ones.
        thresholds: the thresholds of the study.
        primary: name of the primary metric; None: the first of ``metrics``.

    Raises:
        ValueError: two metrics have one name, or share a column without sharing ``measure``; the primary one does not
            exist, or is no mean over all samples that it applies to; one of episodes leaves unparsed answers out.
    """
    if primary is not None:
        metrics = _with_first(metrics, primary)
    _check(metrics)
    found = [_at(metric, thresholds[0], further=False) if metric.at else metric for metric in metrics]
    for metric in metrics:
        if metric.at:
            found += [_at(metric, threshold, further=True) for threshold in thresholds[1:]]
    return tuple(found)


def of_further_task(metrics: Sequence[Metric], task: str) -> tuple[Metric, ...]:
    """Return the metrics of a task that measures the answers to another one; see `Metric.task`."""
    return tuple(replace(metric, task=task) for metric in metrics)


def sample_values(metrics: Iterable[Metric], answer: Any, target: Any) -> dict[str, float | None]:
    """Return the values of one sample by column, those without thresholds first."""
    ordered = sorted(metrics, key=lambda metric: metric.threshold is not None)
    return {metric.column: metric.value(answer, target) for metric in ordered}


def combine_episodes(metrics: Iterable[Metric], rows: Sequence[dict[str, Any]]) -> None:
    """Put the value of each episode into its last row, for metrics over episodes; the other rows get None."""
    episodes: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        episodes.setdefault(row["episode"], []).append(row)
    for metric in metrics:
        if metric.episode:
            for own in episodes.values():
                known = [row[metric.column] for row in own if row[metric.column] is not None]
                value = metric.episode(known) if known else None
                for row in own:
                    row[metric.column] = None
                own[-1][metric.column] = value


def aggregates(metrics: Iterable[Metric], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the aggregate of each metric by name; None where no row has a value.

    A metric at thresholds has its value at the first under its name, and all under ``<name>_at``, by threshold. Of rows
    with a column ``fold``, a metric across users is the mean of its aggregates in each fold.
    """
    found: dict[str, Any] = {}
    for metric in metrics:
        value = _aggregate(metric, rows)
        if not metric.further:
            found[metric.name] = value
        if metric.threshold is not None:
            found.setdefault(f"{metric.family}_at", {})[threshold_label(metric.threshold)] = value
    return found


def _aggregate(metric: Metric, rows: Sequence[Mapping[str, Any]]) -> float | None:
    folds: dict[Any, list[float]] = {}
    for row in rows:
        if row[metric.column] is not None:
            folds.setdefault(row.get("fold") if metric.across == "users" else None, []).append(row[metric.column])
    found = [AGGREGATES[metric.aggregate](values) for values in folds.values()]
    return found[0] if len(found) == 1 else mean_over_users([found] if found else [])


def mean_over_users(values: Iterable[Sequence[float]]) -> float | None:
    """Return the mean over users of each user's mean over folds; None without users.

    Every user has the same weight, and so has every fold of a user, however many samples they have.

    Args:
        values: for each user, the aggregate of a metric in each fold; a user without folds has one value.
    """
    means = [fmean(folds) for folds in values]
    return fmean(means) if means else None


def threshold_label(threshold: float) -> str:
    """Return how a threshold is written in names of columns and keys: 140 and 140.0 are both ``140``."""
    return f"{threshold:g}"


def _at(metric: Metric, threshold: float, further: bool) -> Metric:
    assert metric.at is not None
    label = threshold_label(threshold)
    return replace(
        metric,
        name=f"{metric.name}_at_{label}" if further else metric.name,
        title=metric.at.title.format(label) if further else metric.title,
        column=f"{metric.column}_{label}",
        threshold=threshold,
        family=metric.name,
    )


def _check(metrics: Sequence[Metric]) -> None:
    columns: dict[str, Metric] = {}
    names: set[str] = set()
    for metric in metrics:
        first = columns.setdefault(metric.column, metric)
        if _measured(first) != _measured(metric):
            raise ValueError(f"METRICS: {first.name} and {metric.name} measure differently; give each its own column")
        if metric.name in names:
            raise ValueError(f"METRICS: {metric.name} is listed twice; give each metric its own name")
        if metric.episode and metric.unparsed is None:
            raise ValueError(f"METRICS: {metric.name} is over episodes; give the value of an unparsed answer")
        names.add(metric.name)
    if metrics[0].aggregate != "mean" or metrics[0].unparsed is None or metrics[0].across != "samples":
        raise ValueError(f"METRICS: {metrics[0].name} comes first, so it must be a mean over all samples")


def _measured(metric: Metric) -> tuple[Any, ...]:
    """Return what metrics with one column have in common."""
    return metric.task, metric.measure, metric.unparsed, metric.episode, metric.applies


def _with_first(metrics: Sequence[Metric], name: str) -> list[Metric]:
    first = [metric for metric in metrics if metric.name == name]
    if not first:
        able = [metric.name for metric in metrics if metric.aggregate == "mean" and metric.unparsed is not None]
        raise ValueError(f"{name!r} is no metric of this study; use one of: {', '.join(able)}")
    return [*first, *(metric for metric in metrics if metric.name != name)]
