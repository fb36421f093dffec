"""The key `prior` of an experiment: which point is the answer to every sample, without a model."""

from __future__ import annotations

from typing import Literal

from usertune.study.schema.base import ConfigModel


class Prior(ConfigModel):
    """Which point is the answer to every sample."""

    of: Literal["centre", "train_users", "same_user"] = "train_users"
    """Where it is from: the centre of the screen; the targets of all training users; or the targets of the same user's
    samples in the other folds."""
    point: Literal["mean", "densest"] = "densest"
    """The mean of the targets, or the one with most targets within the first of `evaluation.thresholds`."""
