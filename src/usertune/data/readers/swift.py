"""Reader for the JSON Lines of ms-swift: messages, images, and objects with points and boxes.

A sample looks like this (``objects`` is optional)::

    {"messages": [{"role": "user", "content": "<image>Where is <ref-object>?"},
                  {"role": "assistant", "content": "<bbox>"}],
     "images": ["images/1.png"],
     "objects": {"ref": ["the mail icon"], "bbox": [[10, 20, 110, 220]], "bbox_type": "real", "image_id": [0]}}

``<image>``, ``<ref-object>`` and ``<bbox>`` stand for the next image, reference, and point or box. Each line states the
frame of its boxes: ``real`` (the default) are pixels of the image with the number ``image_id`` (0 if left out), and
``norm1`` are fractions of 1. They are written into the texts in 0-1000. Other numbers in the texts are in the frame of
the study; those of a line with objects are in 0-1000.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from usertune.core.errors import shown
from usertune.data.entry_reader import EntryReader, Place, numbers
from usertune.data.placeholders import listed, texts_of_turns, with_images
from usertune.data.prompt import placeholder_problem
from usertune.data.reader import BadSampleError, Numbers, RawSample
from usertune.data.turns import ROLES, checked_name, checked_text, read_turns

FRAME = "relative_1000"
BARE = False

REFERENCE, BOX = "<ref-object>", "<bbox>"
SAME_ROLES = {role: role for role in ROLES}
FRAMES = {"real": "pixels", "norm1": "relative_1"}
_MARKER = re.compile(f"{REFERENCE}|{BOX}")


class SwiftReader(EntryReader):
    """Reads ``messages`` with ``images`` and ``objects``, see `usertune.data.reader.Reader`."""

    def image_names(self, entry: Mapping[str, Any]) -> Iterable[Any]:
        """Return what is under ``images``."""
        value = entry.get("images")
        return value if isinstance(value, list) else [value]

    def sample(self, entry: Mapping[str, Any], place: Place) -> RawSample:
        """Return a sample with its conversation and objects."""
        for key in ("videos", "audios"):
            if entry.get(key):
                raise BadSampleError(key, f"{key} are not supported")
        images = [self.in_images(name) for name in listed(entry.get("images"), "images")]
        turns = list(texts_of_turns(entry.get("messages"), "messages", "role", "content", SAME_ROLES))
        objects: list[Numbers] = []
        if entry.get("objects") is not None:
            turns, objects = _marked(turns, entry["objects"], len(images))
        name = checked_name(entry, "id", place.name)
        sample = RawSample(name, name, 0, [], about=self.about(entry), objects=objects)
        read_turns(with_images(turns, images, "images", strip=False), sample)
        return sample


def _marked(turns: Sequence[tuple[str, str]], raw: Any, images: int) -> tuple[list[tuple[str, str]], list[Numbers]]:
    """Return turns with references in place of ``<ref-object>`` and a token for each ``<bbox>``, and the boxes."""
    if not isinstance(raw, dict):
        raise BadSampleError("objects", f"an object with ref and bbox is needed, found {type(raw).__name__}")
    references, boxes = _references(raw.get("ref")), _boxes(raw, turns, images)
    text = "".join(text for _, text in turns)
    for marker, found, key in ((REFERENCE, references, "ref"), (BOX, boxes, "bbox")):
        if text.count(marker) != len(found):
            raise BadSampleError(
                f"objects.{key}", f"{len(found)} of them, but the texts have {text.count(marker)} times {marker}"
            )
    waiting = {REFERENCE: iter(references), BOX: iter([box.token for box in boxes])}
    return [(role, _MARKER.sub(lambda match: next(waiting[match[0]]), text)) for role, text in turns], boxes


def _references(raw: Any) -> list[str]:
    if not isinstance(raw, list | None):
        raise BadSampleError("objects.ref", "a list of texts is needed")
    found = [checked_text(text, f"objects.ref[{index}]") for index, text in enumerate(raw or [])]
    for index, text in enumerate(found):
        if problem := placeholder_problem(text):
            raise BadSampleError(f"objects.ref[{index}]", problem)
    return found


def _boxes(raw: Mapping[str, Any], turns: Sequence[tuple[str, str]], images: int) -> list[Numbers]:
    kind, values, of_image = raw.get("bbox_type") or "real", raw.get("bbox") or [], raw.get("image_id") or []
    if not isinstance(kind, str) or kind not in FRAMES:
        raise BadSampleError("objects.bbox_type", f"{shown(kind)} is not known; use real (pixels) or norm1 (0-1)")
    if not isinstance(values, list) or not isinstance(of_image, list):
        raise BadSampleError("objects", "bbox and image_id must be lists")
    # What stands for a box occurs in no text.
    start, texts = "[box ", [*(text for _, text in turns), *map(str, raw.get("ref") or [])]
    while any(start in text for text in texts):
        start = f"[{start}"
    found = []
    for index, value in enumerate(values):
        image = of_image[index] if index < len(of_image) else 0
        if isinstance(image, bool) or not isinstance(image, int) or not 0 <= image < max(images, 1):
            raise BadSampleError(f"objects.image_id[{index}]", f"{shown(image)} is not the number of an image, from 0")
        found.append(Numbers(f"{start}{index}]", numbers(value, f"objects.bbox[{index}]", [2, 4]), FRAMES[kind], image))
    return found
