"""Reader for ScreenSpot, ScreenSpot-v2 and ScreenSpot-Pro: instructions with the box of the element that is meant.

A sample of the first two, and one of ScreenSpot-Pro (``annotations/*.json``)::

    {"img_filename": "pc_1.png", "bbox": [x, y, width, height], "instruction": "open the mail", "data_type": "icon",
     "data_source": "windows"}
    {"img_filename": "word_windows/1.png", "bbox": [left, top, right, bottom], "img_size": [3840, 2160],
     "instruction": "...", "instruction_cn": "...", "id": "word_windows_1", "ui_type": "text", "application": "word",
     "platform": "windows", "group": "Office"}

The same name is used for boxes ``x, y, width, height`` in pixels and, in a copy on the hub, for ``left, top, right,
bottom`` in fractions of 1. Nothing in the numbers tells them apart safely, so the study states both ``dataset.frame``
and ``dataset.options.box``; only a sample with ``img_size`` is known to be of ScreenSpot-Pro, whose boxes are corners.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from usertune.core.errors import UserError
from usertune.data.entry_reader import EntryOptions, EntryReader, Place, numbers
from usertune.data.reader import BadSampleError, RawSample
from usertune.data.recognise import Entry, Found, box_of, recognise_entries, with_boxes
from usertune.data.turns import checked_name, checked_text, question
from usertune.tasks.truth import Truth

FRAME = None
BARE = True

KEPT = ("data_type", "data_source", "platform", "application", "ui_type", "group")
IMAGE_KEYS = ("img_filename", "file_name")


class ScreenSpotOptions(EntryOptions):
    """Options of ``dataset.format: screenspot``."""

    box: Literal["xywh", "xyxy"] | None = None
    """What the four numbers of a box are: left, top, width and height, or left, top, right and bottom. Needed unless
    every sample has ``img_size``, as in ScreenSpot-Pro (xyxy)."""
    instruction: Annotated[str, Field(min_length=1)] = "instruction"
    """Key of the instruction, such as ``instruction_cn``."""


class ScreenSpotReader(EntryReader):
    """Reads lists of instructions and boxes, see `usertune.data.reader.Reader`."""

    Options = ScreenSpotOptions
    options: ScreenSpotOptions
    PATTERNS = ("*.json", "*.jsonl", "annotations/*.json")

    @classmethod
    def recognise(cls, source: Path) -> Found | None:
        """Return what a file or folder holds in this format, see `usertune.data.recognise`."""
        found = recognise_entries(
            source,
            cls.PATTERNS,
            lambda entry: (
                box_of(entry, "bbox") is not None
                and isinstance(entry.get("instruction"), str)
                and any(key in entry for key in IMAGE_KEYS)
            ),
            lambda entry: cls.image_names(cls(source), entry),
        )
        return found and _with_boxes(*found)

    def image_names(self, entry: Mapping[str, Any]) -> Iterable[Any]:
        """Return the image."""
        return [next((entry[key] for key in IMAGE_KEYS if key in entry), None)]

    def sample(self, entry: Mapping[str, Any], place: Place) -> RawSample:
        """Return a sample with a click into the box."""
        (image,) = self.image_names(entry)
        image = checked_text(image, IMAGE_KEYS[0])
        key = self.options.instruction
        name = checked_name(entry, "id", place.name)
        return RawSample(
            name,
            name,
            0,
            question(entry.get(key), key),
            [self.in_images(image)],
            truth=Truth(box=self._box(entry)),
            about=self.about(entry, KEPT),
        )

    def _box(self, entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
        kind = self.options.box or ("xyxy" if "img_size" in entry else None)
        if kind is None:
            raise UserError(
                f"{self.root}: dataset.options.box is missing: say whether a box is xywh (left, top, width, height, as "
                "in ScreenSpot and ScreenSpot-v2) or xyxy (left, top, right, bottom, as in their copy on the hub)"
            )
        left, top, third, fourth = numbers(entry.get("bbox"), "bbox", [4])
        if kind == "xywh":
            if third < 0 or fourth < 0:
                raise BadSampleError("bbox", f"width {third:g} and height {fourth:g} cannot be negative")
            return left, top, left + third, top + fourth
        return left, top, third, fourth


def _with_boxes(found: Found, entries: Sequence[Entry]) -> Found:
    """Return recognised data with the option ``box``, and the frame where the boxes decide it."""
    boxes = [box for entry in entries if (box := box_of(entry, "bbox"))]
    if all("img_size" in entry for entry in entries):
        fractions = all(0 <= value <= 1 for box in boxes for value in box)
        frame = "relative_1" if fractions else "pixels"
        return replace(found, reason=f"{found.reason}: boxes as in ScreenSpot-Pro", frame=frame)
    return with_boxes(replace(found, reason=f"{found.reason}: boxes as in ScreenSpot"), boxes)
