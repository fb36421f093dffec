"""The section `folds`: how each test user's own samples are cut into folds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from usertune.data.folds import FoldSettings
from usertune.study.schema.base import ConfigModel


class Folds(ConfigModel):
    """Folds of each test user's own samples, for experiments that use them; see docs/personalisation.md."""

    count: Annotated[int, Field(ge=2, le=1000)] = 3
    """Number of folds."""
    by: Literal["episode", "random", "time"] = "episode"
    """What stays together: episodes, drawn at random (episode) or in the order of time (time), or single samples
    (random)."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the draw; it has no effect on folds by time."""

    @property
    def settings(self) -> FoldSettings:
        """The same for recipes and steps, with all keys set."""
        return FoldSettings(count=self.count, by=self.by, seed=self.seed)
