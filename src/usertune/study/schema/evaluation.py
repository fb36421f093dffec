"""The section `evaluation`: how to generate and compare answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from usertune.study.schema.base import ConfigModel
from usertune.study.schema.engine import EngineChoice
from usertune.tasks.catalogue import TASKS
from usertune.tasks.metrics import threshold_label

# Names come from the catalogues, so one line there adds a plug-in.
if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[tuple(TASKS)]


class Evaluation(ConfigModel):
    """How to generate and compare answers."""

    engine: EngineChoice = EngineChoice()
    """What generates the answers; transformers: the model runs in the prediction job; openai: a server, with settings
    next to ``kind`` (docs/engines.md)."""
    users_per_job: Annotated[int, Field(gt=0)] = 10
    """Users per prediction job, which loads the base model once. Changes no result."""
    share_base: bool = False
    """Let a prediction job that has loaded the base model also answer for other jobs whose adapters are ready, which
    then find their answers stored (docs/sweeps.md). Changes no result."""
    batch_size: Annotated[int, Field(gt=0)] = 8
    """Samples generated at once; halved when memory runs out. In bfloat16 a few answers depend on it."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 128
    """Maximum length of an answer in tokens; generation stops at the end-of-turn token."""
    thresholds: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (140,)
    """Distances (0-1000 space) within which a click is a hit; the comparison uses the first."""
    primary: str | None = None
    """Name of the metric that is compared and makes the headline, such as ``in_box``; null: the first of the task."""
    further_tasks: tuple[TaskName, ...] = ()
    """Further tasks that read and measure the same answers, each by its own rules, such as ``pigg_compatible``."""
    expected_parse_rate: Annotated[float, Field(ge=0, le=1)] = 0.5
    """If less than this share of a user's answers can be parsed, a warning shows examples. Changes no result."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence level of the intervals."""

    gain_sd: Annotated[float, Field(gt=0)] = 5
    """Assumed standard deviation of users' true gains, in points (or the unit of the primary metric), from which
    ``usertune check`` says the smallest gain that the study detects. Changes no result."""

    @model_validator(mode="after")
    def _check(self) -> Evaluation:
        if len({threshold_label(threshold) for threshold in self.thresholds}) != len(self.thresholds):
            raise ValueError("thresholds: a threshold is listed twice")
        return self
