"""The primary metric by group of samples: app or what else the data say, episode length, screen region, image size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from usertune.evaluation.paired import Answers
from usertune.evaluation.recipe import CompareRecipe
from usertune.evaluation.statistics.intervals import by_user, mean_of_users
from usertune.evaluation.table_names import ABOUT
from usertune.tasks.metrics import Metric

# A key of the data is a group if its values have so many samples on average; its largest values are shown.
FEWEST_SAMPLES = 5
MOST_VALUES = 30
OTHER = "(other)"
# Of groups with fewer users an interval would rest on a few samples of each.
FEWEST_USERS = 5
EPISODES = {1: "1 sample", 4: "2 to 4 samples", 9: "5 to 9 samples", np.inf: "10 samples or more"}
COLUMNS = [
    "by", "value", "experiment", "users", "samples", "macro", "low", "high", "micro", "difference_to_vanilla",
    "difference_low", "difference_high",
]  # fmt: skip


def by_group_table(recipe: CompareRecipe, primary: Metric, samples: pd.DataFrame, answers: Answers) -> pd.DataFrame:
    """Return one row for each grouping, value of it, and experiment or group of experiments.

    ``macro`` is the mean over the users who have such samples, each with equal weight, with Student's t interval if at
    least `FEWEST_USERS` have some; ``micro`` is the mean over samples. ``difference_to_vanilla`` is the paired one, as
    in ``differences.csv``. Nothing is corrected for the number of groups.

    Args:
        recipe: the baseline and the level of the intervals.
        primary: the metric.
        samples: the rows of one experiment, in the order of ``answers``.
        answers: the values of all experiments and groups.
    """
    reach = primary.bounds[1] - primary.bounds[0]
    rows: list[dict[str, object]] = []
    for by, keys in groupings(samples):
        for value, places in keys.groupby(keys, sort=False, observed=True).groups.items():
            users = answers.users[places]
            for name, values in answers.values.items():
                own = by_user(values[places], users)
                if own.empty:
                    continue
                row = {"by": by, "value": value, "experiment": name, "users": len(own)}
                row |= {"samples": int(own["count"].sum()), "micro": own["sum"].sum() / own["count"].sum()}
                row |= _interval(own, recipe.confidence, primary.bounds, ("macro", "low", "high"))
                if recipe.baseline not in (None, name):
                    gains = by_user(values[places] - answers.values[str(recipe.baseline)][places], users)
                    columns = ("difference_to_vanilla", "difference_low", "difference_high")
                    row |= _interval(gains, recipe.confidence, (-reach, reach), columns)
                rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def groupings(samples: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Yield (name, group of each sample) of what divides the samples; samples without a group are left out."""
    for column in samples:
        if str(column).startswith(ABOUT):
            keys = samples[column][samples[column] != ""].astype(str)
            counts = keys.value_counts()
            if len(keys) >= FEWEST_SAMPLES * len(counts):
                shown = keys.where(keys.isin(counts.index[:MOST_VALUES]), OTHER)
                yield from _if_several(str(column).removeprefix(ABOUT), shown, list(shown.value_counts().index))
    if "episode_length" in samples:
        lengths = pd.cut(samples["episode_length"], [0, *EPISODES], labels=list(EPISODES.values()))
        yield from _if_several("episode length", lengths.astype(str), list(EPISODES.values()))
    if {"target_x", "target_y"} <= set(samples):
        known = samples[samples["target_x"].notna()]
        across = _third(known["target_x"], ("left", "centre", "right"))
        down = _third(known["target_y"], ("top", "middle", "bottom"))
        yield from _if_several("screen region", down + " " + across, sorted(set(down + " " + across), reverse=True))
    if {"width", "height"} <= set(samples):
        known = samples[samples["width"].notna()]
        sizes = known["width"].astype(int).astype(str) + " x " + known["height"].astype(int).astype(str)
        yield from _if_several("image size", sizes, list(sizes.value_counts().index[:MOST_VALUES]))


def _third(values: pd.Series, names: tuple[str, str, str]) -> pd.Series:
    return pd.cut(values, [-np.inf, 1000 / 3, 2000 / 3, np.inf], labels=list(names)).astype(str)


def _if_several(name: str, keys: pd.Series, order: list[str]) -> Iterator[tuple[str, pd.Series]]:
    categories = [value for value in order if (keys == value).any()]
    if len(categories) > 1:
        found = pd.Series(pd.Categorical(keys, categories=categories), index=keys.index)
        yield name, found[found.notna()].sort_values(kind="stable")


def _interval(
    users: pd.DataFrame, confidence: float, bounds: tuple[float, float], columns: tuple[str, str, str]
) -> Mapping[str, float | None]:
    if users.empty:
        return dict.fromkeys(columns)
    found = mean_of_users(users["mean"], confidence, bounds)
    ends = (found.low, found.high) if len(users) >= FEWEST_USERS else (None, None)
    return dict(zip(columns, (found.mean, *ends), strict=True))
