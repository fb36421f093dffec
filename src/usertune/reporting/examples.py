"""Examples for the report: a few samples with their screenshot and the answers of all experiments.

The rule of selection cannot favour an experiment: the first sample of each of the first users.
"""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from usertune.core.errors import UserError
from usertune.data.images import BadImageError, load_image
from usertune.data.samples import read_samples
from usertune.evaluation.tables import records
from usertune.reporting.recipe import ReportRecipe
from usertune.tasks.catalogue import get_task
from usertune.tasks.task import Marks
from usertune.tasks.truth import Box

THUMBNAIL_SIZE = (480, 960)
MARKER_RADIUS = 6
LONGEST_TEXT = 2000


@dataclass(frozen=True)
class Answer:
    """What one experiment answered: its text, the outcome in words, and the point on the thumbnail."""

    experiment: str
    text: str
    outcome: str
    point: tuple[float, float] | None
    """Pixels of the thumbnail, origin top left; None if unparsed, outside the screenshot, or without a screenshot."""


@dataclass(frozen=True)
class Example:
    """One sample as the report shows it; points and radii are in pixels of the thumbnail.

    A sample of text alone has an empty ``thumbnail``, of width and height 0; without a target nothing is drawn.
    """

    user: str
    sample: str
    instruction: str
    reference: str
    thumbnail: str
    width: int
    height: int
    target: tuple[float, float] | None
    radii: tuple[float, float] | None
    box: tuple[float, float, float, float] | None
    """Left, top, width and height of the element that was meant."""
    answers: tuple[Answer, ...]

    @property
    def description(self) -> str:
        """Alternative text for the picture."""
        found = "; ".join(f"{answer.experiment}: {answer.outcome}" for answer in self.answers)
        return f"Screenshot of sample {self.sample} with the target and the answers. {found}."


def collect_examples(
    recipe: ReportRecipe,
    samples_files: Mapping[str, Path],
    dataset_root: Path,
    texts: Mapping[tuple[str, str, str], str],
    scored: pd.DataFrame,
) -> list[Example]:
    """Return the first sample of each of the first ``recipe.examples`` test users.

    Args:
        recipe: what is compared, and of how many users a sample is shown.
        samples_files: user -> canonical samples (JSON Lines).
        texts: (experiment, user, sample id) -> predicted text.
        scored: the table ``samples.csv`` of the comparison.

    Raises:
        UserError: samples, predictions or scores of such a user are missing, or a screenshot is missing or
            has changed since the models saw it.
    """
    task, threshold = get_task(recipe.task), recipe.thresholds[0]
    rows = {(row["experiment"], row["user"], row["id"]): row for row in records(scored)}
    examples = []
    for user in recipe.users[: recipe.examples]:
        if user not in samples_files:
            raise UserError(f"samples: the file of user {user} is needed for the examples; add it to --samples")
        sample = read_samples(samples_files[user], user)[0]
        thumbnail = _thumbnail(dataset_root, sample, samples_files[user])
        size = thumbnail.size if thumbnail else (0, 0)
        answers = []
        for name in recipe.names:
            key = (name, user, sample["id"])
            if key not in texts or key not in rows:
                raise UserError(
                    f"sample {sample['id']!r} of user {user}: no prediction or score of experiment {name!r}; "
                    "run snakemake again"
                )
            marks = task.marks(rows[key], task.target_of(sample), threshold)
            answers.append(_answer(name, texts[key], task.outcome(rows[key], threshold), marks, size))
        examples.append(
            Example(
                user=user,
                sample=sample["id"],
                instruction=for_html(_text_of_role(sample, "user")),
                reference=for_html(_text_of_role(sample, "assistant")),
                thumbnail=_data_uri(thumbnail) if thumbnail else "",
                width=size[0],
                height=size[1],
                target=_pixels(marks.target, size) if marks else None,
                radii=_pixels((marks.radius, marks.radius), size) if marks else None,
                box=_box(marks.box, size) if marks and marks.box else None,
                answers=tuple(answers),
            )
        )
    return examples


def for_html(text: str) -> str:
    """Return ``text`` shortened and without control characters, which HTML cannot hold; still to be escaped."""
    shown = "".join(
        character if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs") else "\ufffd"
        for character in text[:LONGEST_TEXT]
    )
    rest = len(text) - LONGEST_TEXT
    return f"{shown}\n… and {rest:,} more characters" if rest > 0 else shown


def _answer(name: str, text: str, outcome: str, marks: Marks | None, size: tuple[int, int]) -> Answer:
    shown = _pixels(marks.point, size) if marks and marks.point and any(size) else None
    return Answer(name, for_html(text), outcome, shown)


def _pixels(point: tuple[float, float], size: tuple[int, int]) -> tuple[float, float]:
    """Return relative coordinates (0-1000 on each axis) in pixels of an image of ``size``."""
    return round(point[0] / 1000 * size[0], 1), round(point[1] / 1000 * size[1], 1)


def _box(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return a box (left, top, right, bottom; 0-1000) as left, top, width and height in pixels of an image."""
    left, top, right, bottom = box
    return *_pixels((left, top), size), *_pixels((right - left, bottom - top), size)


def _thumbnail(root: Path, sample: Mapping[str, Any], samples_file: Path) -> Image.Image | None:
    images: Sequence[Any] = sample.get("images") or []
    if not images:
        return None
    try:
        # The last image is the current screen; earlier ones, if any, are history.
        image = load_image(root, images[-1])
    except BadImageError as error:
        raise UserError(
            f"{samples_file}: sample {sample['id']!r}: {error} (put the image back, or set report.examples to 0)"
        ) from None
    image.thumbnail(THUMBNAIL_SIZE, Image.Resampling.LANCZOS)
    return image


def _data_uri(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _text_of_role(sample: Mapping[str, Any], role: str) -> str:
    parts = [
        part.get("text", "")
        for turn in sample.get("messages") or []
        if turn.get("role") == role
        for part in turn.get("content") or []
        if part.get("type") == "text"
    ]
    return "\n".join(parts)
