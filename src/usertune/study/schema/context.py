"""The key `context` of an experiment: answered samples of other episodes, in the prompt before the question."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from usertune.study.schema.base import ConfigModel


class Context(ConfigModel):
    """Answered samples in the prompt before the question."""

    episodes: Annotated[int, Field(gt=0)] = 3
    """Episodes that they are from."""
    of: Literal["same_user", "other_user"] = "same_user"
    """Whose they are: the same user's, from outside the sample's fold; or those of the next test user."""
    samples: Annotated[int, Field(gt=0)] = 6
    """Number of them in all, as equal as possible for each episode."""
    images: bool = True
    """Whether their screenshots are shown too, or only questions and answers."""

    @model_validator(mode="after")
    def _check(self) -> Context:
        if self.samples < self.episodes:
            raise ValueError(
                f"samples ({self.samples}) is below episodes ({self.episodes}); each episode needs a sample"
            )
        return self
