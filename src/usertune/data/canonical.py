"""Turn the raw samples of one user into canonical ones: images are opened, coordinates converted, targets read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from usertune.data.frames import (
    DEFAULT_FRAME,
    Reading,
    convert_answer,
    convert_numbers,
    convert_truth,
    looks_like_fraction,
    read_point,
)
from usertune.data.images import BadImageError, Look, describe_embedded, describe_image
from usertune.data.prompt import put_prompt
from usertune.data.reader import BadSampleError, RawSample
from usertune.data.recipe import PrepareRecipe
from usertune.data.samples import Image, Sample
from usertune.data.turns import text_of
from usertune.tasks.catalogue import get_task
from usertune.tasks.truth import NotAskedError, Point, Truth

Keep = Callable[[str, bytes], None]


class Canonical:
    """Makes canonical samples of one user, and collects the targets as they are in the raw data.

    Args:
        recipe: how the samples are read and checked.
        root: folder of the raw data.
        user: the user's id.
        look: see `usertune.data.images.describe_image`.
        keep: called with path and bytes of each embedded image that can be used; None to keep none.

    Attributes:
        readings: the targets so far, in the raw data's frame, of bad samples too.
        stated: frame -> the targets so far of samples that state this frame, see `RawSample.objects`.
    """

    def __init__(
        self, recipe: PrepareRecipe, root: Path, user: str, look: Look | None = None, keep: Keep | None = None
    ) -> None:
        self.recipe, self.root, self.user, self._look, self._keep = recipe, root, user, look, keep
        self.task = get_task(recipe.task)
        self.readings: list[Reading] = []
        self.stated: dict[str, list[Reading]] = {}
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
        if raw.objects:
            self._note_stated(raw, number, images)
            if problem is None:
                _write_objects(raw, images)
        answer = text_of(raw.messages[-1])
        point = raw.truth.place if raw.truth else read_point(answer, self.task.parse, self._frame(raw))
        if point and all(map(math.isfinite, point)) and not raw.objects:
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
                    if path in raw.embedded:
                        self._images[path] = describe_embedded(path, raw.embedded[path], self._look)
                        if self._keep is not None:
                            self._keep(path, raw.embedded[path])
                    else:
                        self._images[path] = describe_image(self.root, path, self._look)
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
        frame = self._frame(raw)
        self._convert_answers(raw, images)
        where = raw.turn_field.format(raw.numbers[-1])
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
        frame, seen = self._frame(raw), 0
        if frame == DEFAULT_FRAME:
            return
        for index, turn in enumerate(raw.messages):
            seen += sum(part["type"] == "image" for part in turn["content"])
            if turn["role"] != "assistant":
                continue
            size = (images[seen - 1]["width"], images[seen - 1]["height"]) if seen else None
            try:
                turn["content"] = [{"type": "text", "text": self._converted(text_of(turn), frame, size)}]
            except ValueError as error:
                raise BadSampleError(raw.turn_field.format(raw.numbers[index]), str(error)) from None

    def _converted(self, text: str, frame: str, size: tuple[int, int] | None) -> str:
        """Return an answer with its coordinates in 0-1000; one that names no point as it is."""
        if self.task.answers_are_actions:
            return self.task.answer(convert_truth(self.task.truth_of(text), frame, size))
        point = read_point(text, self.task.parse, frame)
        return convert_answer(text, point, frame, size) if point else text

    def _frame(self, raw: RawSample) -> str:
        """Return the frame of the numbers in a sample's answers."""
        return DEFAULT_FRAME if raw.objects else self.recipe.frame

    def _note_stated(self, raw: RawSample, number: int, images: list[Image]) -> None:
        """Note the first point of the answer, in the frame that the sample states."""
        answer = text_of(raw.messages[-1])
        for one in raw.objects:
            if one.token in answer:
                point = Truth(box=one.values).place if len(one.values) == 4 else one.values
                assert point is not None
                reading = Reading(number, (point[0], point[1]), _size_of(images, one.image))
                self.stated.setdefault(one.frame, []).append(reading)
                return


def _size_of(images: list[Image], index: int) -> tuple[int, int] | None:
    return (images[index]["width"], images[index]["height"]) if index < len(images) else None


def _write_objects(raw: RawSample, images: list[Image]) -> None:
    """Put the points and boxes of a sample into its texts, in 0-1000."""
    for index, one in enumerate(raw.objects):
        try:
            text = convert_numbers(one.values, one.frame, _size_of(images, one.image))
        except ValueError as error:
            raise BadSampleError(f"objects.bbox[{index}]", str(error)) from None
        for turn in raw.messages:
            for part in turn["content"]:
                if part["type"] == "text":
                    part["text"] = part["text"].replace(one.token, text)
