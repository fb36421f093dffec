"""What is shown of a test sample, in the report's browser of samples and by ``usertune show``.

Coordinates are in the metric's own space, 0-1000 on each axis, where a click counts within a circle around the target.
`in_pixels` is the one place where they become pixels of a picture: an ellipse, unless the screenshot is square.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from usertune.core.errors import UserError
from usertune.data.samples import Image, Sample
from usertune.evaluation.recipe import ComparisonDesign
from usertune.evaluation.tables import records
from usertune.tasks.catalogue import get_task
from usertune.tasks.metrics import Metric
from usertune.tasks.task import Marks, Task
from usertune.tasks.truth import SCALE, Box, Point

RIGHT, PARTLY, WRONG, UNPARSED, NOT_MEASURED, NOT_ASKED = VERDICTS = (
    "right",
    "partly",
    "wrong",
    "unparsed",
    "not measured",
    "not asked",
)
FAILED = (PARTLY, WRONG, UNPARSED)
ALL_RIGHT, ALL_WRONG, DISAGREE = AGREEMENTS = ("all right", "all wrong", "disagree")
# Longer texts would make the page of a large study too heavy to open; the files of predictions have them whole.
LONGEST_TEXT = 20_000
# Control characters other than tab and line feed, and surrogates.
_NOT_IN_PAGES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class AnswerView:
    """What one experiment answered.

    Attributes:
        experiment: its name.
        text: the answer; empty if the experiment was not asked.
        form: the form in which it was read, or the reason why it could not be read.
        verdict: one of `VERDICTS`, by the primary metric of the study.
        outcome: the outcome in words.
        distance: from the target; None where one of the two has no point.
        point: where it points to; None where that is not on the screenshot.
    """

    experiment: str
    text: str
    form: str
    verdict: str
    outcome: str
    distance: float | None
    point: Point | None


@dataclass(frozen=True)
class SampleView:
    """A test sample, what was expected, and the answers of all experiments; see the module for coordinates."""

    user: str
    sample: str
    episode: str
    step: int
    about: Mapping[str, str]
    instruction: str
    reference: str
    image: Image | None
    target: Point | None
    radius: float
    box: Box | None
    answers: tuple[AnswerView, ...]

    @property
    def agreement(self) -> str:
        """One of `AGREEMENTS`, over the experiments with a verdict; empty if there is none."""
        right = [answer.verdict == RIGHT for answer in self.answers if answer.verdict in (RIGHT, *FAILED)]
        if not right:
            return ""
        return ALL_RIGHT if all(right) else DISAGREE if any(right) else ALL_WRONG


class Drawing(NamedTuple):
    """What is drawn of a sample, in pixels of a picture of it, from its top left corner."""

    target: tuple[float, float] | None
    radii: tuple[float, float]
    """Half the width and half the height of the region within which a click counts."""
    box: tuple[float, float, float, float] | None
    """Left, top, width and height."""
    points: tuple[tuple[float, float] | None, ...]
    """Where the experiments point to, in their order."""


def in_pixels(view: SampleView, size: tuple[int, int]) -> Drawing:
    """Return what is drawn of a sample on a picture of ``size`` (width, height)."""
    box = None
    if view.box is not None:
        left, top, right, bottom = view.box
        box = (*_scaled((left, top), size), *_scaled((right - left, bottom - top), size))
    return Drawing(
        target=_scaled(view.target, size) if view.target else None,
        radii=_scaled((view.radius, view.radius), size),
        box=box,
        points=tuple(_scaled(answer.point, size) if answer.point else None for answer in view.answers),
    )


class Scored(NamedTuple):
    """The answers and scores of a study, by (experiment, user, id of the sample)."""

    texts: Mapping[tuple[str, str, str], str]
    rows: Mapping[tuple[str, str, str], Mapping[str, Any]]


def scored(predictions: Sequence[Mapping[str, Any]], samples: pd.DataFrame) -> Scored:
    """Return answers and scores.

    Args:
        predictions: manifests of predictions; answers without a text are left out.
        samples: the table ``samples.csv`` of the comparison.
    """
    texts = {
        (batch["experiment"], answer["user"], answer["id"]): answer["text"]
        for batch in predictions
        for answer in batch["predictions"]
        if "text" in answer
    }
    return Scored(texts, {(row["experiment"], row["user"], row["id"]): row for row in records(samples)})


def sample_views(
    design: ComparisonDesign, primary: Metric, samples: Iterable[Sample], found: Scored
) -> Iterator[SampleView]:
    """Yield what is shown of test samples.

    Args:
        design: what is compared.
        primary: the metric that decides which answers are right.
        samples: the samples.
        found: the answers and their scores.

    Raises:
        UserError: answers or scores of an experiment are missing.
    """
    task = get_task(design.task)
    for sample in samples:
        yield _view(design, task, primary, sample, found)


def verdict_words(task: Task) -> dict[str, str]:
    """Return what people read for each verdict."""
    right, wrong = task.right_and_wrong
    return {**{verdict: verdict for verdict in VERDICTS}, RIGHT: right, PARTLY: "partly right", WRONG: wrong}


def for_page(text: str) -> str:
    """Return ``text`` without control characters, which HTML and JSON cannot hold, shortened if very long."""
    shown = _NOT_IN_PAGES.sub("\ufffd", text[:LONGEST_TEXT])
    rest = len(text) - LONGEST_TEXT
    return f"{shown}\n… and {rest:,} more characters" if rest > 0 else shown


def _view(design: ComparisonDesign, task: Task, primary: Metric, sample: Sample, found: Scored) -> SampleView:
    threshold, target = design.thresholds[0], task.target_of(sample)
    answers, marks = [], None
    for name in design.names:
        key = (name, sample["user"], sample["id"])
        row = found.rows.get(key)
        if (row is None) != (key not in found.texts):
            raise UserError(
                f"sample {sample['id']!r} of user {sample['user']}: no prediction or score of experiment {name!r}; "
                "run snakemake again"
            )
        if row is None:
            answers.append(AnswerView(name, "", "", NOT_ASKED, NOT_ASKED, None, None))
            continue
        own = task.marks(row, target, threshold)
        marks = marks or own
        answers.append(
            _answer(name, found.texts[key], row, verdict_of(row, primary), task.outcome(row, threshold), own)
        )
    if all(answer.verdict == NOT_ASKED for answer in answers):
        raise UserError(f"sample {sample['id']!r} of user {sample['user']}: not in the tables; run snakemake again")
    return SampleView(
        user=sample["user"],
        sample=sample["id"],
        episode=sample["episode"],
        step=sample["step"],
        about={name: for_page(str(value)) for name, value in (sample.get("about") or {}).items()},
        instruction=for_page(text_of_role(sample, "user")),
        reference=for_page(text_of_role(sample, "assistant")),
        # The last image is the current screen; earlier ones, if any, are history.
        image=sample["images"][-1] if sample["images"] else None,
        target=marks.target if marks else None,
        radius=marks.radius if marks else 0.0,
        box=marks.box if marks else None,
        answers=tuple(answers),
    )


def _answer(
    name: str, text: str, row: Mapping[str, Any], verdict: str, outcome: str, marks: Marks | None
) -> AnswerView:
    x, y, target_x, target_y = (float(row.get(name, math.nan)) for name in ("x", "y", "target_x", "target_y"))
    distance = math.hypot(x - target_x, y - target_y) if row["parsed"] else math.nan
    return AnswerView(
        experiment=name,
        text=for_page(text),
        form=str(row["form"]),
        verdict=verdict,
        outcome=outcome,
        distance=None if math.isnan(distance) else round(distance, 1),
        point=marks.point if marks else None,
    )


def verdict_of(row: Mapping[str, Any], primary: Metric) -> str:
    """Return one of `VERDICTS`, by the primary metric of a row of scores."""
    value = row[primary.column]
    if math.isnan(value):
        return NOT_MEASURED
    if not row["parsed"]:
        return UNPARSED
    low, high = primary.bounds
    worst, best = (low, high) if primary.better == "higher" else (high, low)
    return RIGHT if value == best else WRONG if value == worst else PARTLY


def text_of_role(sample: Mapping[str, Any], role: str) -> str:
    """Return the texts of all turns of a role in a sample, one a line."""
    parts = [
        part.get("text", "")
        for turn in sample.get("messages") or []
        if turn.get("role") == role
        for part in turn.get("content") or []
        if part.get("type") == "text"
    ]
    return "\n".join(parts)


def _scaled(point: Sequence[float], size: tuple[int, int]) -> tuple[float, float]:
    return round(point[0] / SCALE * size[0], 1), round(point[1] / SCALE * size[1], 1)
