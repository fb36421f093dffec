"""The recipe of the prepare step."""

from __future__ import annotations

from typing import Literal

from usertune.core.recipe import Recipe, Settings


class PromptSettings(Settings):
    """What is put around the text of every sample."""

    system: str | None = None
    """Text of the system turn; None keeps each sample's own."""
    user: str = "{text}"
    """Text of the last user turn, where ``{text}`` stands for what the sample says there."""


class PrepareRecipe(Recipe):
    """How the raw samples of a user are read and checked."""

    format: str = "messages"
    """How the raw data are written."""
    task: str
    """What the model is asked for."""
    frame: Literal["relative_1000", "relative_1", "pixels"] = "relative_1000"
    """What the coordinates in the raw data are, see `usertune.data.frames`."""
    prompt: PromptSettings = PromptSettings()
    on_bad_sample: Literal["error", "skip"] = "error"
    """Stop at a sample that does not pass the checks, or leave it out and count it."""
