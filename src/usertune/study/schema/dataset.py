"""The section `dataset`: the raw data, and how they are read."""

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
    """The prompt of every sample, in training and in prediction."""

    system: Annotated[str, Field(min_length=1)] | None = None
    """Text of the system turn; null keeps that of each sample."""
    user: str = PROMPT_TEXT
    """Text of the last user turn; ``{text}`` is the text of the sample."""

    @model_validator(mode="after")
    def _check(self) -> Prompt:
        if self.user.count(PROMPT_TEXT) != 1:
            raise ValueError(f"user: {self.user!r} must hold {PROMPT_TEXT} once, where the sample's text goes")
        for key, text in (("user", self.user), ("system", self.system or "")):
            if problem := placeholder_problem(text):
                raise ValueError(f"{key}: {problem}")
        return self


class Dataset(ConfigModel):
    """The raw data, and how they are read."""

    format: ReaderName = "messages"
    """Format of the raw data; messages: a folder of ``user_<id>.jsonl``."""
    root: Folder
    """The folder that holds the raw data; image paths in the data are relative to it."""
    task: TaskName = "grounding"
    """What the model is asked for. It decides how answers are read and scored."""
    frame: Literal["relative_1000", "relative_1", "pixels"] = "relative_1000"
    """Coordinate frame of the raw data: 0-1000 or 0-1 on each axis, or pixels of the image. Default: the frame of the
    format; messages: relative_1000."""
    prompt: Prompt = Prompt()
    on_bad_sample: Literal["error", "skip"] = "error"
    """End the run at a sample that fails the checks, or leave the sample out and count it."""
    watch_images: Literal["stat", "content", "never"] = "stat"
    """How changed images are detected: by size and modification time, by their bytes (slow), or not at all."""
    users_per_job: Annotated[int, Field(gt=0, le=500)] = 10
    """Users that one job checks, one after another; smaller batches spread over more cores. Changes no result."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_frame(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "frame" in raw or (name := raw.get("format", "messages")) not in list(READERS):
            return raw
        return {**raw, "frame": READERS.constant(name, "FRAME")}
