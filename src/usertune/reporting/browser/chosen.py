"""Which test samples the report shows: all, or, of a large study, the same number of each user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.data.samples import Sample, read_samples
from usertune.evaluation import table_names
from usertune.evaluation.tables import read_table
from usertune.reporting.recipe import ReportRecipe

# A browser opens a page of so many samples in seconds (benchmarks/report_browser.py).
MOST_SHOWN = 20_000
# What tables and costs take of an answer that is not shown.
OF_ALL_ANSWERS = ("new_tokens", "stopped")


@dataclass(frozen=True)
class Chosen:
    """The samples to show by user, in the study's order of users, and how many test samples there are."""

    samples: Mapping[str, Sequence[Sample]]
    total: int

    @property
    def count(self) -> int:
        """How many are shown."""
        return sum(map(len, self.samples.values()))

    def without_other_texts(self, predictions: dict[str, Any]) -> dict[str, Any]:
        """Return a manifest of predictions without the texts of answers that are not shown.

        A million of them take gigabytes.
        """
        ids = {user: {sample["id"] for sample in own} for user, own in self.samples.items()}
        answers = [
            answer if answer["id"] in ids.get(answer["user"], ()) else _of_all(answer)
            for answer in predictions["predictions"]
        ]
        return {**predictions, "predictions": answers}


def samples_to_show(recipe: ReportRecipe, tables: Path, samples_files: Sequence[Path]) -> Chosen:
    """Return at most about `MOST_SHOWN` samples, at least one of each user, evenly over the samples of each.

    Args:
        recipe: what is compared.
        tables: folder of the tables.
        samples_files: canonical samples, ``user_<id>.jsonl``.

    Raises:
        UserError: samples of a user, or the table of users, are missing or malformed.
    """
    if recipe.samples == "none":
        return Chosen({}, 0)
    users = read_table(tables / table_names.USERS)
    total = int(users.groupby("user", observed=True)["samples"].max().sum())
    each = None if total <= MOST_SHOWN else max(1, MOST_SHOWN // len(recipe.users))
    files = {path.stem.removeprefix("user_"): path for path in samples_files}
    found = {}
    for user in recipe.users:
        if user not in files:
            raise UserError(f"samples: the file of user {user} is needed to show them; add it to --samples")
        found[user] = _evenly(read_samples(files[user], user), each)
    return Chosen(found, total)


def _evenly(samples: Sequence[Sample], most: int | None) -> Sequence[Sample]:
    if most is None or len(samples) <= most:
        return samples
    return [samples[place * len(samples) // most] for place in range(most)]


def _of_all(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {key: answer[key] for key in OF_ALL_ANSWERS if key in answer}
