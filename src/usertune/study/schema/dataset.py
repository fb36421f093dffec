"""The section `dataset`: the raw data and how to read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from usertune.data.frames import FRAMES
from usertune.data.prompt import PROMPT_TEXT, placeholder_problem
from usertune.data.raw_data import WatchImages
from usertune.data.readers.catalogue import READERS
from usertune.study.schema.base import ConfigModel, Folder
from usertune.study.schema.options import check_options
from usertune.tasks.catalogue import TASKS

# Names come from the catalogues, so one line there adds a plug-in.
if TYPE_CHECKING:
    ReaderName = str
    TaskName = str
else:
    ReaderName, TaskName = (Literal[tuple(catalogue)] for catalogue in (READERS, TASKS))


class Prompt(ConfigModel):
    """The prompt of every sample, in training and in prediction."""

    system: Annotated[str, Field(min_length=1)] | None = None
    """Text of the system turn; null: the system turn of each sample."""
    user: str = PROMPT_TEXT
    """Text of the last user turn; ``{text}`` stands for the text of the sample, and ``{about.KEY}``, such as
    ``{about.app}``, for what else is known of it. Default: ``{text}``, or the task's prompt for formats with bare
    instructions."""

    @model_validator(mode="after")
    def _check(self) -> Prompt:
        if self.user.count(PROMPT_TEXT) != 1:
            raise ValueError(f"user: {self.user!r} must contain {PROMPT_TEXT} once, for the sample's text")
        for key, text in (("user", self.user), ("system", self.system or "")):
            if problem := placeholder_problem(text):
                raise ValueError(f"{key}: {problem}")
        return self


class Dataset(ConfigModel):
    """The raw data and how to read them."""

    format: ReaderName = "messages"
    """Format of the raw data; messages: a folder of ``user_<id>.jsonl``."""
    options: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
    """Options of the format (docs/data.md)."""
    root: Folder
    """Folder of the raw data; image paths in the data are relative to it."""
    task: TaskName = "grounding"
    """What the model is asked to do. It determines how answers are read and scored."""
    frame: Literal["relative_1000", "relative_1", "pixels"] = "relative_1000"
    """Coordinate frame of the raw data: 0-1000 or 0-1 on each axis, or image pixels. Default: the frame of the format;
    messages: relative_1000."""
    prompt: Prompt = Prompt()
    on_bad_sample: Literal["error", "skip"] = "error"
    """If a sample fails the checks: error stops the run, skip leaves the sample out and counts it."""
    watch_images: WatchImages = "stat"
    """How to detect changed images: by size and modification time (stat), by their bytes (content, slow), or not at all
    (never)."""
    users_per_job: Annotated[int, Field(gt=0, le=500)] = 10
    """Users that one job checks in sequence; smaller batches use more cores. Changes no result."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults_of_format(cls, raw: Any) -> Any:
        """Add the frame of the format, and the prompt of the task if samples are bare instructions."""
        if not isinstance(raw, dict):
            return raw
        name, task = raw.get("format", "messages"), raw.get("task", "grounding")
        if name not in list(READERS) or task not in list(TASKS):
            return raw
        if "frame" not in raw:
            frame = READERS.constant(name, "FRAME")
            if frame is None:
                raise ValueError(
                    f"frame is missing: data in the format {name} come in several coordinate frames, so set the one "
                    f"that yours have: {', '.join(FRAMES)} (usertune import SOURCE shows what they look like)"
                )
            raw = {**raw, "frame": frame}
        prompt = raw.get("prompt") or {}
        if READERS.constant(name, "BARE") and isinstance(prompt, dict) and "user" not in prompt:
            raw = {**raw, "prompt": {**prompt, "user": TASKS.constant(task, "PROMPT")}}
        return raw

    @model_validator(mode="after")
    def _check_options(self) -> Dataset:
        model, owner = READERS.load(self.format).Options, f"format {self.format}"
        check_options(model, self.options, owner, word="option", under=("options",))
        return self
