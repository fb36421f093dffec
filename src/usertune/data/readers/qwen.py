r"""Reader for the JSON and JSON Lines of LLaVA and of Qwen's own fine-tuning program.

A sample looks like this (``id`` is optional)::

    {"id": "a1", "image": "images/1.png", "conversations": [
      {"from": "human", "value": "<image>\nWhere is the mail icon?"},
      {"from": "gpt", "value": "...the answer..."}]}

``image`` is a path or a list of paths, shown where ``<image>`` stands. Packed files are lists of lists of samples.
Numbers in the texts have no frame of their own: data for Qwen3-VL have 0-1000, data for Qwen2.5-VL have pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from usertune.data.entry_reader import EntryReader, Place
from usertune.data.placeholders import listed, texts_of_turns, with_images
from usertune.data.reader import BadSampleError, RawSample
from usertune.data.turns import checked_name, read_turns

FRAME = None
BARE = False

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_FIELD = re.compile(r"messages(?:\[(\d+)\])?(\.role)?.*")


class QwenReader(EntryReader):
    """Reads ``conversations`` with ``<image>`` in the texts, see `usertune.data.reader.Reader`."""

    def image_names(self, entry: Mapping[str, Any]) -> Iterable[Any]:
        """Return what is under ``image`` (or ``images``)."""
        value = entry.get("image", entry.get("images"))
        return value if isinstance(value, list) else [value]

    def sample(self, entry: Mapping[str, Any], place: Place) -> RawSample:
        """Return a sample with its conversation."""
        if "video" in entry or "videos" in entry:
            raise BadSampleError("video", "videos are not supported")
        key = "images" if "images" in entry and "image" not in entry else "image"
        images = [self.in_images(name) for name in listed(entry.get(key), key)]
        turns = list(texts_of_turns(entry.get("conversations"), "conversations", "from", "value", ROLES))
        name = checked_name(entry, "id", place.name)
        sample = RawSample(name, name, 0, [], about=self.about(entry), turn_field="conversations[{}].value")
        try:
            read_turns(with_images(turns, images, key, strip=True), sample)
        except BadSampleError as problem:
            raise BadSampleError(_FIELD.sub(_renamed, problem.field), str(problem)) from None
        return sample


def _renamed(match: re.Match[str]) -> str:
    """Return the field of a turn as this format calls it."""
    if match[1] is None:
        return "conversations"
    return f"conversations[{match[1]}].{'from' if match[2] else 'value'}"
