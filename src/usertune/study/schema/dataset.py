"""The section `dataset`: where the raw data are, and how they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from usertune.data.prompt import PROMPT_TEXT, placeholder_problem
from usertune.data.readers.catalogue import READERS
from usertune.study.schema.base import ConfigModel, Folder
from usertune.tasks.catalogue import TASKS

# The names in the catalogues, so that one line there adds a plug-in.
if TYPE_CHECKING:
    ReaderName = str
    TaskName = str
else:
    ReaderName, TaskName = (Literal[tuple(catalogue)] for catalogue in (READERS, TASKS))


class Prompt(ConfigModel):
    """What is put around the text of every sample, in training as in prediction."""

    system: Annotated[str, Field(min_length=1)] | None = None
    """Text of the system turn; null keeps each sample's own."""
    user: str = PROMPT_TEXT
    """Text of the last user turn; ``{text}`` stands for what the sample says there."""

    @model_validator(mode="after")
    def _check(self) -> Prompt:
        if self.user.count(PROMPT_TEXT) != 1:
            raise ValueError(f"user: {self.user!r} must hold {PROMPT_TEXT} once, where the sample's text goes")
        for key, text in (("user", self.user), ("system", self.system or "")):
            if problem := placeholder_problem(text):
                raise ValueError(f"{key}: {problem}")
        return self


class Dataset(ConfigModel):
    """Where the raw data are, and what is done with them."""

    format: ReaderName = "messages"
    """How the raw data are written, and so what reads them; messages: a folder of ``user_<id>.jsonl``."""
    root: Folder
    """The folder that holds the raw data; image paths in the data are relative to it."""
    task: TaskName = "grounding"
    """What the model is asked for, and so how its answers are read and scored."""
    frame: Literal["relative_1000", "relative_1", "pixels"] = "relative_1000"
    """What the coordinates in the raw data are: 0-1000 or 0-1 on each axis, or pixels of the image. Left out, it is
    what the format says; messages: relative_1000."""
    prompt: Prompt = Prompt()
    on_bad_sample: Literal["error", "skip"] = "error"
    """Stop at a sample that does not pass the checks, or leave it out and count it."""
    watch_images: Literal["stat", "content", "never"] = "stat"
    """How a changed image is noticed: by size and modification time, by its bytes (slow), or not at all."""
    users_per_job: Annotated[int, Field(gt=0, le=500)] = 10
    """Users that one job checks, one after another; smaller batches spread over more cores. Changes no result."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_frame(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "frame" in raw or (name := raw.get("format", "messages")) not in list(READERS):
            return raw
        return {**raw, "frame": READERS.constant(name, "FRAME")}
