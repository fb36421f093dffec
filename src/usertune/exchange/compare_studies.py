"""Two studies on the samples that both have: how far their experiments are apart, and what else differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import ValidationError

from usertune.core.errors import UserError
from usertune.core.formatting import p_text
from usertune.core.manifest import read_manifest
from usertune.core.step_names import BASE_MODEL, COMPARE, PREPARE
from usertune.core.users import format_users
from usertune.data.samples import read_samples, request_digest
from usertune.evaluation import table_names
from usertune.evaluation.lineage import provenance_records
from usertune.evaluation.recipe import CompareRecipe
from usertune.evaluation.statistics.intervals import mean_of_users
from usertune.evaluation.statistics.sign_flip import holm, sign_flip_test
from usertune.evaluation.tables import read_table
from usertune.pipeline.recipe_changes import recipe_changes
from usertune.pipeline.steps import STEPS
from usertune.tasks.metrics import Metric

Key = tuple[str, str]
# Kinds of differences, in the order in which they are shown.
EXPERIMENTS, SETTINGS, BASE, USERS = "experiments", "settings", "base model", "test users"
DATA, CODE, PACKAGES = "data", "code", "packages"


@dataclass(frozen=True)
class Results:
    """The results of a study.

    Args:
        folder: its results folder.

    Raises:
        UserError: it has no tables, or those of another release.
    """

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest of the tables."""
        path = self.folder / STEPS[COMPARE].manifest
        if not path.exists():
            raise UserError(f"{path}: does not exist; name the results folder of a study that is complete")
        return read_manifest(path)

    @cached_property
    def recipe(self) -> CompareRecipe:
        """What its tables compare."""
        try:
            return CompareRecipe.model_validate(self.manifest["recipe"])
        except (KeyError, ValidationError) as error:
            raise UserError(
                f"{self.folder}: its tables are of another release; run snakemake there ({error})"
            ) from None

    @cached_property
    def samples(self) -> pd.DataFrame:
        """One row for each sample and experiment, see docs/answers.md."""
        return read_table(self.folder / "tables" / table_names.SAMPLES)

    @property
    def primary(self) -> Metric:
        """The primary metric."""
        return self.recipe.metrics[0]

    def values(self, experiment: str, column: str) -> pd.Series:
        """Return a column of an experiment's rows, by (user, id)."""
        rows = self.samples[self.samples["experiment"] == experiment]
        return rows.set_index(["user", "id"])[column].astype(float)

    def asked(self, users: Sequence[str]) -> dict[Key, tuple[str, Any]]:
        """Return (user, id) -> digest of the question, and the expected answer."""
        return {
            (user, sample["id"]): (request_digest(sample), (sample["messages"][-1], sample.get("target")))
            for user in users
            for sample in read_samples(self.folder / f"data/user_{user}.jsonl", user)
        }


@dataclass(frozen=True)
class Overlap:
    """The samples that two studies have in common.

    Attributes:
        keys: (user, id) of the samples with the same question and expected answer in both.
        changed: samples with the same user and id, whose question or expected answer differs.
        only_first, only_second: samples that one of the two has.
    """

    keys: pd.MultiIndex
    changed: int
    only_first: int
    only_second: int

    @property
    def users(self) -> int:
        """The number of users with samples in both."""
        return int(self.keys.get_level_values(0).nunique())


def overlap_of(first: Results, second: Results) -> Overlap:
    """Return the samples that two studies have in common.

    Raises:
        UserError: there are none, or the studies measure different metrics.
    """
    if first.primary != second.primary:
        raise UserError(
            f"{first.folder} measures {first.primary.title}, and {second.folder} measures {second.primary.title}; "
            "score both with the same task, thresholds and evaluation.primary"
        )
    others = set(second.recipe.users)
    users = [user for user in first.recipe.users if user in others]
    one, two = (results.asked(users) for results in (first, second))
    both = [key for key in one if key in two]
    same = [key for key in both if one[key] == two[key]]
    if not same:
        known = [format_users(results.recipe.users) for results in (first, second)]
        raise UserError(
            f"{first.folder} and {second.folder} share no test sample with the same question and expected answer; "
            f"the first has test users {known[0]}, the second {known[1]}"
        )
    counts = [len(results.samples) // len(results.recipe.names) - len(both) for results in (first, second)]
    return Overlap(pd.MultiIndex.from_tuples(same), len(both) - len(same), *counts)


def comparison(first: Results, second: Results, pairs: Sequence[tuple[str, str]], shared: Overlap) -> pd.DataFrame:
    """Return one row for each pair of experiments: how far the second study's is above the first's.

    The values are means over users of the means of their samples, on the samples of the overlap. The interval of the
    difference is Student's t over users; ``p`` is the exact sign-flip test over users, and ``p_holm`` is corrected for
    the pairs (see docs/statistics.md). The columns with ``micro`` are means over samples, with equal weight for each.

    Args:
        first, second: the studies.
        pairs: (experiment of the first, experiment of the second).
        shared: the samples that they have in common.
    """
    column, reach = first.primary.column, first.primary.bounds[1] - first.primary.bounds[0]
    rows: list[dict[str, Any]] = []
    for name, other in pairs:
        chosen = ((first, name), (second, other))
        values, parsed = (
            [results.values(own, key).reindex(shared.keys) for results, own in chosen] for key in (column, "parsed")
        )
        means, rates = ([_by_user(series).mean() for series in both] for both in (values, parsed))
        gains = _by_user(values[1] - values[0])
        found = mean_of_users(gains, first.recipe.confidence, (-reach, reach))
        rows.append(
            {
                "first": name,
                "second": other,
                "users": len(gains),
                "samples": int((values[1] - values[0]).count()),
                "first_value": means[0],
                "second_value": means[1],
                "difference": found.mean,
                "low": found.low,
                "high": found.high,
                "p": sign_flip_test(list(gains)).p,
                "first_micro": values[0].mean(),
                "second_micro": values[1].mean(),
                "micro": (values[1] - values[0]).mean(),
                "first_parse_rate": rates[0],
                "second_parse_rate": rates[1],
            }
        )
    table = pd.DataFrame(rows)
    corrected = holm([None if pd.isna(value) else float(value) for value in table["p"]])
    return table.assign(p_holm=pd.Series(corrected, dtype=float))


def _by_user(values: pd.Series) -> pd.Series:
    return values.groupby(level=0, sort=False).mean().dropna()


def pairs_of(first: Results, second: Results, asked: Sequence[str]) -> list[tuple[str, str]]:
    """Return the experiments to compare: those that were asked for as ``ONE=OTHER``, else those of the same name.

    Raises:
        UserError: there is no such experiment, or none of the same name.
    """
    known = first.recipe.names, second.recipe.names
    if not asked:
        if same := [(name, name) for name in known[0] if name in known[1]]:
            return same
        raise UserError(
            f"no experiment has the same name in both ({', '.join(known[0])}; {', '.join(known[1])}); "
            "say which to compare: --pair ONE=OTHER"
        )
    pairs = []
    for text in asked:
        one, sign, other = text.partition("=")
        for name, names, results in zip((one, other if sign else one), known, (first, second), strict=True):
            if name not in names:
                raise UserError(
                    f"--pair {text}: {results.folder} has no experiment {name!r}; it has {', '.join(names)}"
                )
        pairs.append((one, other if sign else one))
    return pairs


def differences(first: Results, second: Results) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) for what differs between two studies besides their answers."""
    yield from _alone(EXPERIMENTS, first.recipe.names, second.recipe.names)
    names = [name for name in first.recipe.names if name in second.recipe.names]
    yield from ((SETTINGS, text) for text in recipe_changes(_settings(first, names), _settings(second, names)))
    if _base_models(first) != _base_models(second):
        yield BASE, "its files differ"
    mine, theirs = _prepared(first), _prepared(second)
    yield from _alone(USERS, list(mine), list(theirs))
    if other := [user for user in mine if user in theirs and mine[user] != theirs[user]]:
        yield DATA, f"other prepared samples of test users {format_users(other)}"
    for kind, found in ((CODE, _codes), (PACKAGES, _versions)):
        yield from ((kind, text) for text in recipe_changes(found(first, names), found(second, names)))


def _alone(kind: str, first: Sequence[str], second: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name, own, others in (("first", first, second), ("second", second, first)):
        if alone := [value for value in own if value not in others]:
            yield kind, f"in the {name} alone: {format_users(alone) if kind == USERS else ', '.join(alone)}"


def _settings(results: Results, names: Sequence[str]) -> dict[str, Any]:
    path = results.folder / "study.yaml"
    try:
        study = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({error}); every complete run writes it") from None
    if not isinstance(study, dict):
        raise UserError(f"{path}: is no study; run snakemake there, which writes it")
    # Folders differ wherever a study lies; what they hold is compared by its content.
    # The shared training settings are in every experiment, as far as it uses them.
    shown = {key: value for key, value in study.items() if key not in ("results", "training")}
    shown["experiments"] = {name: study.get("experiments", {}).get(name) for name in names}
    # Who is tested is compared by the users themselves.
    shown["users"] = {key: value for key, value in study.get("users", {}).items() if key != "test"}
    for section, key in (("dataset", "root"), ("base_model", "path")):
        shown[section] = {name: value for name, value in study.get(section, {}).items() if name != key}
    return shown


def _base_models(results: Results) -> set[str]:
    """Return the digests of base models; experiments without a model have none."""
    return {str(own["lineage"][BASE_MODEL]) for own in results.manifest["experiments"].values()} - {"None"}


def _prepared(results: Results) -> dict[str, str]:
    (own, *_) = results.manifest["experiments"].values()
    return {user: found[PREPARE] for user, found in own["lineage"]["users"].items()}


def _codes(results: Results, names: Sequence[str]) -> dict[str, str]:
    records = provenance_records(results.manifest)
    return _joined((f"{step} {name}", record["code"]) for step, name, record in records if name in names)


def _versions(results: Results, names: Sequence[str]) -> dict[str, str]:
    return _joined(
        (package, str(version))
        for _, name, record in provenance_records(results.manifest)
        for package, version in record["versions"].items()
        if name in names
    )


def _joined(values: Iterator[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for key, value in values:
        if value not in found.setdefault(key, []):
            found[key].append(value)
    return {key: ", ".join(sorted(own)) for key, own in found.items()}


def shown_rows(metric: Metric, table: pd.DataFrame) -> list[Mapping[str, str]]:
    """Return the rows of `comparison` as people read them: column -> text."""
    rows: list[Mapping[str, str]] = []
    for row in table.to_dict("records"):
        low, high = row["low"], row["high"]
        name = row["first"] if row["first"] == row["second"] else f"{row['first']} / {row['second']}"
        rows.append(
            {
                "experiment": name,
                "first": metric.text(row["first_value"]),
                "second": metric.text(row["second_value"]),
                "difference": metric.difference(row["difference"]),
                "interval": "" if pd.isna(low) else metric.difference_interval(low, high),
                "p": "" if pd.isna(row["p_holm"]) else p_text(row["p_holm"]),
                "over samples": metric.difference(row["micro"]),
                "parsed": f"{row['first_parse_rate']:.1%} / {row['second_parse_rate']:.1%}",
            }
        )
    return rows
