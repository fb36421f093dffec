"""The data of the browser of samples, as one JSON value of columns, and what it shows first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from usertune.evaluation.recipe import ComparisonDesign
from usertune.evaluation.tables import records
from usertune.reporting.browser.pictures import Pictures
from usertune.reporting.browser.samples import (
    AGREEMENTS,
    FAILED,
    VERDICTS,
    SampleView,
    in_pixels,
    verdict_of,
    verdict_words,
)
from usertune.reporting.style import styles
from usertune.tasks.catalogue import get_task
from usertune.tasks.metrics import Metric
from usertune.tasks.truth import SCALE

# A screenshot's place and marks where its picture is not shown: the space of the coordinates itself.
NO_PICTURE = (SCALE, SCALE)
# Instructions with fewer characters in common than this are whole in the list.
SHORTEST_COMMON = 20


@dataclass(frozen=True)
class Worst:
    """The user with the lowest value of the best experiment, and how many of their samples failed."""

    experiment: str
    user: str
    value: str
    failed: int
    samples: int


def best_experiment(design: ComparisonDesign, primary: Metric, summary: pd.DataFrame) -> str:
    """Return the experiment with the best value of the primary metric; of equal ones the first in the study."""
    values = summary.set_index("experiment").loc[design.names, primary.name]
    if values.isna().all():
        return design.names[0]
    return str(values.idxmax() if primary.better == "higher" else values.idxmin())


def worst_first(design: ComparisonDesign, primary: Metric, users: pd.DataFrame) -> dict[str, list[str]]:
    """Return experiment -> its users, the one with the worst value of the primary metric first."""
    found = {}
    for name in design.names:
        values = users[users["experiment"] == name].set_index("user")[primary.name].reindex(design.users)
        ascending = primary.better == "higher"
        found[name] = [
            str(user) for user in values.sort_values(ascending=ascending, kind="stable", na_position="last").index
        ]
    return found


def worst_user(primary: Metric, best: str, user: str, users: pd.DataFrame, samples: pd.DataFrame) -> Worst:
    """Return what the report says of the worst user of the best experiment."""
    row, own_samples = (table[(table["experiment"] == best) & (table["user"] == user)] for table in (users, samples))
    own = [verdict_of(each, primary) for each in records(own_samples)]
    value = f"{primary.text(row.iloc[0][primary.name])} {primary.unit}".rstrip()
    return Worst(best, user, value, sum(verdict in FAILED for verdict in own), len(own))


def browser_data(
    design: ComparisonDesign,
    views: Sequence[SampleView],
    pictures: Pictures | None,
    best: str,
    ranked: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Return what ``browser.js`` reads: lists of names, and columns with one entry for each sample.

    Args:
        design: what is compared.
        views: the samples.
        pictures: the screenshots; None leaves them out.
        best: the experiment whose failures are shown first.
        ranked: experiment -> its users, worst first.
    """
    task, users = get_task(design.task), {user: index for index, user in enumerate(design.users)}
    style = styles(design)
    apps = _distinct(view.about.get("app", "") for view in views)
    forms = _distinct(answer.form for view in views for answer in view.answers)
    prefix, suffix = _in_common([view.instruction for view in views])
    images = [pictures.of[view.image["sha256"]] if pictures and view.image else None for view in views]
    blank = [_without_picture(view) if index is None else None for view, index in zip(views, images, strict=True)]
    sizes = [
        pictures.pictures[index].size if pictures and index is not None else size or NO_PICTURE
        for index, size in zip(images, blank, strict=True)
    ]
    drawings = [in_pixels(view, size) for view, size in zip(views, sizes, strict=True)]
    return {
        "experiments": [
            {"name": name, "colour": style[name].colour, "outline": style[name].outline} for name in design.names
        ],
        "users": design.users,
        "apps": list(apps),
        "forms": [[form, task.forms.get(form) or task.reasons.get(form, "")] for form in forms],
        "verdicts": list(verdict_words(task).items()),
        "failed": list(FAILED),
        "agreements": list(AGREEMENTS),
        "start": {"experiment": best},
        "ranks": [[users[user] for user in ranked[name]] for name in design.names],
        "pictures": [[item.source, *item.size] for item in pictures.pictures] if pictures else [],
        "common": [prefix, suffix],
        "samples": {
            **_said(views, users, apps),
            "picture": images,
            "size": blank,
            "target": [drawing.target for drawing in drawings],
            "radii": [drawing.radii for drawing in drawings],
            "box": [drawing.box for drawing in drawings],
        },
        "answers": [
            _answers(number, views, [drawing.points[number] for drawing in drawings], forms)
            for number in range(len(design.names))
        ],
    }


def _said(views: Sequence[SampleView], users: Mapping[str, int], apps: Mapping[str, int]) -> dict[str, list[Any]]:
    """Return the columns of what is known of the samples themselves."""
    return {
        "user": [users[view.user] for view in views],
        "id": [view.sample for view in views],
        "episode": [view.episode for view in views],
        "step": [view.step for view in views],
        "app": [apps[view.about.get("app", "")] for view in views],
        "about": [[[key, value] for key, value in view.about.items() if key != "app"] for view in views],
        "instruction": [view.instruction for view in views],
        "reference": [view.reference for view in views],
        "agreement": [AGREEMENTS.index(view.agreement) if view.agreement else None for view in views],
    }


def _answers(
    number: int, views: Sequence[SampleView], points: Sequence[Any], forms: Mapping[str, int]
) -> dict[str, list[Any]]:
    """Return the columns of one experiment's answers."""
    answers = [view.answers[number] for view in views]
    return {
        "text": [answer.text for answer in answers],
        "form": [forms[answer.form] for answer in answers],
        "verdict": [VERDICTS.index(answer.verdict) for answer in answers],
        "outcome": [answer.outcome for answer in answers],
        "distance": [answer.distance for answer in answers],
        "point": list(points),
    }


def _without_picture(view: SampleView) -> tuple[int, int] | None:
    """Return the size of the drawing of a sample whose picture is not shown: with the shape of its screenshot."""
    if view.image is None or not view.target:
        return None
    width, height = view.image["width"], view.image["height"]
    scale = max(NO_PICTURE) / max(width, height)
    return round(width * scale), round(height * scale)


def _distinct(texts: Iterable[str]) -> dict[str, int]:
    """Return text -> its position among the different ones, sorted."""
    return {text: index for index, text in enumerate(sorted(set(texts)))}


def _in_common(instructions: Sequence[str]) -> tuple[int, int]:
    """Return how many characters all instructions have in common at their beginning, and at their end.

    The study's prompt is around every instruction, and the list shows what is between.
    """
    if len(set(instructions)) < 2:
        return 0, 0
    before = _whole_words(_same_beginning(instructions))
    after = _whole_words(_same_beginning([text[len(before) :][::-1] for text in instructions]))
    return _long_enough(before), _long_enough(after)


def _same_beginning(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    # What the first and the last in order have in common, all between them have too.
    different = (index for index, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(different, len(first))]


def _whole_words(text: str) -> str:
    return text[: max(text.rfind(" "), text.rfind("\n")) + 1]


def _long_enough(text: str) -> int:
    return len(text) if len(text) >= SHORTEST_COMMON else 0
