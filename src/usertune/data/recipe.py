"""The recipes of the steps that read samples: prepare and leakage."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from usertune.core.recipe import Recipe, Settings
from usertune.data.folds import FoldSettings


class PromptSettings(Settings):
    """The prompt around the text of every sample."""

    system: str | None = None
    """Text of the system turn; None keeps each sample's own."""
    user: str = "{text}"
    """Text of the last user turn, with ``{text}`` in place of the sample's own, see `usertune.data.prompt`."""


class PrepareRecipe(Recipe):
    """How the raw samples of a user are read and checked."""

    format: str = "messages"
    """Format of the raw data, the name of a reader."""
    options: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
    """Options of the format, see ``Options`` of its reader."""
    task: str
    """Name of the task, which reads targets from answers."""
    frame: Literal["relative_1000", "relative_1", "pixels"] = "relative_1000"
    """Coordinate frame of the raw data, see `usertune.data.frames`."""
    prompt: PromptSettings = PromptSettings()
    on_bad_sample: Literal["error", "skip"] = "error"
    """Stop at a sample that does not pass the checks, or skip and count it."""


class LeakageRecipe(Recipe):
    """Which samples are compared, and how."""

    code: str = ""
    """Version of the code of the step."""
    splits: dict[str, str]
    """The users of each split, in the short notation."""
    folds: FoldSettings | None = None
    """The folds of each test user's samples, which are compared too; None: there are none."""
    pooled: bool = False
    """Whether weights are trained on the folds of all test users together, which are then compared too."""
    within: int = Field(default=24, ge=0, le=31)
    """Number of the 256 bits in which the perceptual hashes of nearly identical screenshots may differ."""
