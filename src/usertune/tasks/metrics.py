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
        threshold, family: set by `at_thresholds`: the threshold, and the name that the task declares.
    """

    name: str
    title: str
    column: str
    measure: Callable[..., float]
    aggregate: Literal["mean", "median"] = "mean"
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""
    digits: int = 1
    unparsed: float | None = None
    bounds: tuple[float, float] = (float("-inf"), float("inf"))
    at: AtThresholds | None = None
    episode: Callable[[Sequence[float]], float] | None = None
    threshold: float | None = None
    family: str = ""

    @property
    def heading(self) -> str:
        """Title and unit, for the head of a column."""
        return f"{self.title} {self.unit}".rstrip()

    @property
    def condition(self) -> str:
        """What counts at the metric's threshold; empty where it has none."""
        return self.at.condition.format(threshold_label(self.threshold)) if self.at and self.threshold else ""

    def value(self, answer: Any, target: Any) -> float | None:
        """Return the value of one sample; ``answer`` is None where it is unparsed."""
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


def at_thresholds(metrics: Sequence[Metric], thresholds: Sequence[float]) -> tuple[Metric, ...]:
    """Return a task's metrics as a study measures them: those of the first threshold, then those of the further ones.

    The first of ``metrics`` is the primary one: it is compared, with intervals, and makes the headline.

    Raises:
        ValueError: two metrics have one name, or share a column without sharing ``measure``; the primary one is no mean
            over all samples; one of episodes leaves samples out.
    """
    _check(metrics)
    found = [_at(metric, thresholds[0], further=False) if metric.at else metric for metric in metrics]
    for metric in metrics:
        if metric.at:
            found += [_at(metric, threshold, further=True) for threshold in thresholds[1:]]
    return tuple(found)


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
                value = metric.episode([row[metric.column] for row in own])
                for row in own:
                    row[metric.column] = None
                own[-1][metric.column] = value


def aggregates(metrics: Iterable[Metric], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the aggregate of each metric by name; None where no row has a value.

    A metric at thresholds has its value at the first under its name, and all under ``<name>_at``, by threshold.
    """
    found: dict[str, Any] = {}
    for metric in metrics:
        values = [row[metric.column] for row in rows if row[metric.column] is not None]
        value = AGGREGATES[metric.aggregate](values) if values else None
        if not metric.further:
            found[metric.name] = value
        if metric.threshold is not None:
            found.setdefault(f"{metric.family}_at", {})[threshold_label(metric.threshold)] = value
    return found


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
        if (first.measure, first.unparsed, first.episode) != (metric.measure, metric.unparsed, metric.episode):
            raise ValueError(f"METRICS: {first.name} and {metric.name} measure differently; give each its own column")
        if metric.name in names:
            raise ValueError(f"METRICS: {metric.name} is listed twice; give each metric its own name")
        if metric.episode and metric.unparsed is None:
            raise ValueError(f"METRICS: {metric.name} is over episodes; give the value of an unparsed answer")
        names.add(metric.name)
    if metrics[0].aggregate != "mean" or metrics[0].unparsed is None:
        raise ValueError(f"METRICS: {metrics[0].name} comes first, so it must be a mean over all samples")
