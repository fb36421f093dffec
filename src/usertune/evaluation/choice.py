"""The best setting of a group of experiments, by what is measured on validation users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from usertune.core.errors import UserError
from usertune.evaluation.recipe import CompareRecipe
from usertune.tasks.metrics import Metric

# Values that differ by less are equal: sums of the same numbers in another order differ by rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Validation:
    """What was measured on validation users: the experiments' validation losses, and their scores by user."""

    losses: Mapping[str, float | None]
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Measured:
    """What one setting has on validation users.

    Attributes:
        value: mean over seeds, of the loss or of the mean over users of the primary metric.
        sd: standard deviation over seeds; None with one seed.
        users: number of users that it is over; None for losses.
        samples: number of their samples; None for losses.
    """

    value: float
    sd: float | None
    users: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Choice:
    """What chooses the setting of one group.

    Attributes:
        measured: setting in words -> what it has on validation users, in the order of the study.
        best: the chosen setting; of equal ones the first.
    """

    measured: Mapping[str, Measured]
    best: str


def choice_of(recipe: CompareRecipe, group: str, primary: Metric, found: Validation) -> Choice | None:
    """Return the choice of a group's setting; None if the study asks for none.

    By ``loss`` it is the setting with the lowest validation loss, by ``accuracy`` that with the best primary metric:
    the mean over validation users, who all have the same weight. Both are means over seeds. Of equal settings the one
    that the study lists first is chosen.

    Args:
        recipe: the groups, what chooses their settings, and the validation users.
        group: the group.
        primary: the metric that is compared.
        found: what was measured.

    Raises:
        UserError: a validation loss that is needed is missing, or the metric has no value for any user.
    """
    how, settings = recipe.select.get(group), recipe.groups[group]
    if how is None:
        return None
    if how == "loss":
        _require_losses(group, settings, found.losses)
        seeds = {text: [float(found.losses[name] or 0) for name in names] for text, names in settings.items()}
        return _best({text: _over_seeds(own) for text, own in seeds.items()}, lower=True)
    values = {name: _by_user(recipe, name, primary, found.scores) for names in settings.values() for name in names}
    # A mean over other users would be another measure.
    users = [user for user in recipe.validation_users if all(user in own for own in values.values())]
    if not users:
        raise UserError(
            f"{group}: its best setting is chosen by {primary.title} on validation users, and no validation user has "
            "a value in all its experiments; use other validation users or another evaluation.primary, or set select: "
            "none"
        )
    measured = {
        text: _over_seeds(
            [fmean(values[name][user] for user in users) for name in names],
            len(users),
            sum(int(found.scores[names[0]][user]["samples"]) for user in users),
        )
        for text, names in settings.items()
    }
    return _best(measured, lower=primary.better == "lower")


def _over_seeds(values: Sequence[float], users: int | None = None, samples: int | None = None) -> Measured:
    return Measured(fmean(values), stdev(values) if len(values) > 1 else None, users, samples)


def _best(measured: Mapping[str, Measured], lower: bool) -> Choice:
    values = [one.value for one in measured.values()]
    best = min(values) if lower else max(values)
    return Choice(measured, next(text for text, one in measured.items() if are_equal(one.value, best)))


def are_equal(first: float, second: float) -> bool:
    """Whether two means are equal up to rounding."""
    return abs(first - second) <= ROUNDING * max(abs(first), abs(second))


def _require_losses(group: str, settings: Mapping[str, Sequence[str]], losses: Mapping[str, float | None]) -> None:
    missing = [name for names in settings.values() for name in names if losses.get(name) is None]
    if missing:
        raise UserError(
            f"{group}: its best setting is chosen by validation loss, and the training of {missing[0]} has none; "
            "give the study validation users, or set select: none"
        )


def _by_user(
    recipe: CompareRecipe, name: str, primary: Metric, scores: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> dict[str, float]:
    values = {user: primary.of(scores[name][user]) for user in recipe.validation_users}
    return {user: value for user, value in values.items() if value is not None}
