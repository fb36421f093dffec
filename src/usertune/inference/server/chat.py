"""Samples as messages of OpenAI's chat API, with images inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from usertune.data.images import load_image, read_checked
from usertune.data.samples import Image as ImageRecord
from usertune.data.samples import Sample, Turn
from usertune.models.family import Family

# What servers decode; the first bytes of a file, and its type.
SIGNATURES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))
UPRIGHT_MODES = ("RGB", "L")


class ChatMessages:
    """Turns samples into messages.

    An image is scaled to the size that the base model's processor gives it in training, so that the server neither
    scales it nor counts other tokens. It is sent as PNG. A file that is upright, opaque and of that size is sent as it
    is.

    Args:
        root: folder of the raw data.
        family: family of the base model, whose rule of sizes counts.
        limits: limits of the base model's image processor, see `Family.image_limits`; None sends files as they are.
    """

    def __init__(self, root: Path, family: Family, limits: Mapping[str, int] | None) -> None:
        self._root = root
        self._family = family
        self._limits = limits

    def prompt(self, sample: Sample) -> list[dict[str, Any]]:
        """Return the messages before the expected answer.

        Raises:
            usertune.data.images.BadImageError: an image is missing or changed.
        """
        return self._messages(sample, sample["messages"][:-1])

    def conversation(self, sample: Sample) -> list[dict[str, Any]]:
        """Return all messages, the expected answer included; errors as for `prompt`."""
        return self._messages(sample, sample["messages"])

    def _messages(self, sample: Sample, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        images = iter(sample["images"])
        found = []
        for turn in turns:
            parts = [
                {"type": "text", "text": part["text"]}
                if part["type"] == "text"
                else {"type": "image_url", "image_url": {"url": self._data_url(next(images))}}
                for part in turn["content"]
            ]
            # Not every server takes lists of parts in turns of the system and of the model.
            texts = [part["text"] for part in parts if part["type"] == "text"]
            content = parts if turn["role"] == "user" or len(texts) < len(parts) else "".join(map(str, texts))
            found.append({"role": turn["role"], "content": content})
        return found

    def _data_url(self, record: ImageRecord) -> str:
        content = read_checked(self._root, record)
        kind = next((kind for signature, kind in SIGNATURES if content.startswith(signature)), None)
        size = record["width"], record["height"]
        wanted = self._family.image_size(*size, self._limits) if self._limits else size
        if kind is None or wanted != size or not _is_plain(content):
            image = load_image(self._root, record)
            with io.BytesIO() as file:
                scaled = image if wanted == size else image.resize(wanted, Image.Resampling.BICUBIC)
                scaled.save(file, "PNG")
                content, kind = file.getvalue(), "image/png"
        return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _is_plain(content: bytes) -> bool:
    """Whether every reader shows these bytes alike: upright, without transparency or a palette."""
    with Image.open(io.BytesIO(content)) as image:
        return image.mode in UPRIGHT_MODES and "transparency" not in image.info and not image.getexif()
