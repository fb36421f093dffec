"""The recipes of predictions: by a model, and without one."""

from __future__ import annotations

from typing import Any, Literal

from usertune.core.recipe import Recipe, Settings
from usertune.data.folds import FoldSettings
from usertune.inference.engines.catalogue import DEFAULT_ENGINE
from usertune.models.recipe import Pixels


class AnswersRecipe(Recipe):
    """Which answers, generated elsewhere, are the predictions."""

    answers: str
    """Path of the files as written in the study; their content is an input."""


class ContextSettings(Settings):
    """Which answered samples are in the prompt before the question, see `usertune.inference.context`."""

    episodes: int
    """Episodes that they are from."""
    of: Literal["same_user", "other_user"]
    """Whose they are."""
    samples: int
    """Number of them in all."""
    images: bool
    """Whether their images are shown too."""
    folds: FoldSettings | None = None
    """The folds of the same user's samples; those of the question's fold are left out."""


class PredictRecipe(Recipe):
    """Settings of generation."""

    max_new_tokens: int
    """Maximum length of an answer, in tokens."""
    pixels: Pixels = Pixels()
    dtype: Literal["bfloat16", "float32"]
    thinking: bool | None = None
    engine: str = DEFAULT_ENGINE
    """Name of the engine, see `usertune.inference.engines.catalogue`."""
    engine_settings: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
    """Settings of the engine that decide what an answer is."""
    adapters: dict[str, str] = {}  # noqa: RUF012 (pydantic copies it)
    """User -> user whose adapters answer; empty: the user's own. It decides who answers, not what."""
    context: ContextSettings | None = None
    """Answered samples in the prompt; None: none."""
    context_users: dict[str, str] = {}  # noqa: RUF012 (pydantic copies it)
    """User -> the other user whose samples are in the prompt."""

    def generation(self) -> dict[str, Any]:
        """Return the keys that decide a model's answer to a request, without those that decide who is asked what."""
        others = ("adapters", "context", "context_users")
        return {key: value for key, value in self.as_json().items() if key not in others}


class PriorSettings(Settings):
    """Which point is the answer."""

    of: Literal["centre", "train_users", "same_user"]
    """Where it is from."""
    point: Literal["mean", "densest"] | None = None
    """How it stands for several targets; None for the centre."""
    radius: float | None = None
    """Distance in the 0-1000 space within which targets count for the densest point."""


class PriorRecipe(Recipe):
    """How the answers of an experiment without a model are found."""

    code: str = ""
    """Version of the code that finds them."""
    task: str
    """The task, which writes the answer."""
    prior: PriorSettings
    users: tuple[str, ...] = ()
    """The training users whose targets are used."""
    folds: FoldSettings | None = None
    """The folds of each user's own samples, if these are used."""
