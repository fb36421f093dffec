"""Turn the raw samples of one user into canonical ones: images are opened, coordinates converted, targets read."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from usertune.data.frames import (
    DEFAULT_FRAME,
    Reading,
    convert_answer,
    convert_truth,
    looks_like_fraction,
    read_point,
)
from usertune.data.images import BadImageError, describe_image
from usertune.data.prompt import put_prompt
from usertune.data.reader import BadSampleError, RawSample
from usertune.data.recipe import PrepareRecipe
from usertune.data.samples import Image, Sample
from usertune.data.turns import text_of
from usertune.tasks.catalogue import get_task
from usertune.tasks.truth import NotAskedError, Point, Truth


class Canonical:
    """Makes canonical samples of one user, and collects the targets as they are in the raw data.

    Args:
        recipe: how the samples are read and checked.
        root: folder of the raw data.
        user: the user's id.

    Attributes:
        readings: the targets so far, in the raw data's frame, of bad samples too.
    """

    def __init__(self, recipe: PrepareRecipe, root: Path, user: str) -> None:
        self.recipe, self.root, self.user = recipe, root, user
        self.task = get_task(recipe.task)
        self.readings: list[Reading] = []
        self._images: dict[str, Image] = {}

    def sample(self, raw: RawSample, number: int) -> Sample:
        """Return the canonical form of a raw sample, whose turns are changed in place.

        Args:
            raw: the raw sample.
            number: its line or number in the raw data, for messages about targets.

        Raises:
            BadSampleError: an image, the answer or a coordinate is not usable.
            NotAskedError: the task does not ask for this kind of action.
        """
        if raw.truth is not None:
            # Before the images are decoded, since many samples of a dataset can be left out for this reason.
            self._answer(replace(raw.truth, point=(0, 0)) if raw.truth.place else raw.truth)
        problem = self._open(raw)
        images = [self._images[path] for path in raw.image_paths if path in self._images]
        # The last image is the current screen; earlier ones, if any, are history.
        size = (images[-1]["width"], images[-1]["height"]) if images and not problem else None
        answer = text_of(raw.messages[-1])
        point = raw.truth.place if raw.truth else read_point(answer, self.task.parse, self.recipe.frame)
        if point and all(map(math.isfinite, point)):
            self.readings.append(Reading(number, point, size))
        if problem:
            raise problem
        target = self._target_of_truth(raw, size) if raw.truth else self._target_of_answer(raw, images, point)
        put_prompt(raw, self.recipe.prompt.system, self.recipe.prompt.user)
        sample: Sample = {
            "id": raw.id,
            "user": self.user,
            "episode": raw.episode,
            "step": raw.step,
            "messages": raw.messages,
            "images": images,
            "target": target,
        }
        # Left out where there is nothing, so that the samples of other formats are as they were.
        return {**sample, "about": raw.about} if raw.about else sample

    def _open(self, raw: RawSample) -> BadSampleError | None:
        """Open a sample's images; return the problem of the first bad one."""
        for path in raw.image_paths:
            if path not in self._images:
                try:
                    self._images[path] = describe_image(self.root, path)
                except BadImageError as error:
                    return BadSampleError("image", str(error))
        return None

    def _target_of_truth(self, raw: RawSample, size: tuple[int, int] | None) -> dict[str, Any]:
        """Return the target of a sample with an action, and add the answer to its turns."""
        assert raw.truth is not None
        try:
            truth = convert_truth(raw.truth, self.recipe.frame, size)
            target = self.task.target_from_truth(truth)
        except ValueError as error:
            raise BadSampleError("action", str(error)) from None
        raw.messages.append({"role": "assistant", "content": [{"type": "text", "text": self._answer(truth)}]})
        return target

    def _answer(self, truth: Truth) -> str:
        try:
            return self.task.answer(truth)
        except NotAskedError:
            raise
        except ValueError as error:
            raise BadSampleError("action", str(error)) from None

    def _target_of_answer(self, raw: RawSample, images: list[Image], point: Point | None) -> dict[str, Any]:
        frame = self.recipe.frame
        self._convert_answers(raw, images)
        where = f"messages[{raw.numbers[-1]}].content"
        if frame == DEFAULT_FRAME and point and looks_like_fraction(point):
            raise BadSampleError(
                where, f"the point {list(point)} looks like fractions of 1, but dataset.frame is {frame}"
            )
        try:
            return self.task.target_from_answer(text_of(raw.messages[-1]))
        except ValueError as error:
            raise BadSampleError(where, str(error)) from None

    def _convert_answers(self, raw: RawSample, images: list[Image]) -> None:
        """Convert the points of all assistant turns to 0-1000, in place, each by the size of the screen before it."""
        frame, seen = self.recipe.frame, 0
        if frame == DEFAULT_FRAME:
            return
        for index, turn in enumerate(raw.messages):
            seen += sum(part["type"] == "image" for part in turn["content"])
            if turn["role"] != "assistant" or not (point := read_point(text_of(turn), self.task.parse, frame)):
                continue
            size = (images[seen - 1]["width"], images[seen - 1]["height"]) if seen else None
            try:
                turn["content"] = [{"type": "text", "text": convert_answer(text_of(turn), point, frame, size)}]
            except ValueError as error:
                raise BadSampleError(f"messages[{raw.numbers[index]}].content", str(error)) from None
