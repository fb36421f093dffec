"""The canonical sample, and the files of one user's samples that later steps read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from usertune.errors import UserError
from usertune.files import read_json
from usertune.fingerprint import digest, digest_file


class Image(TypedDict):
    """An image of a sample: ``path`` is relative to the dataset's root; sizes are pixels after EXIF rotation."""

    path: str
    sha256: str
    width: int
    height: int


class Part(TypedDict):
    """A piece of a turn: ``type`` is "text" (with ``text``) or "image" (the next one of the sample's images)."""

    type: str
    text: NotRequired[str]


class Turn(TypedDict):
    """One turn of a conversation; ``role`` is "system", "user" or "assistant"."""

    role: str
    content: list[Part]


class Sample(TypedDict):
    """One conversation of one user, ending in the answer that a model should give."""

    id: str
    user: str
    episode: str
    step: int
    messages: list[Turn]
    images: list[Image]
    target: dict[str, Any]


def request_digest(sample: Sample) -> str:
    """Return the digest of what a model is shown: the turns before the answer, and the images' bytes.

    Ids, paths and the expected answer do not count, so samples that ask the same share their prediction.
    """
    return digest({"messages": sample["messages"][:-1], "images": [image["sha256"] for image in sample["images"]]})


def read_user(manifest_file: str | Path) -> tuple[dict[str, Any], list[Sample]]:
    """Read one user's prepared samples by way of their manifest.

    Returns:
        The manifest and the samples, in the order of the raw file.

    Raises:
        UserError: the samples are missing or are not those that the manifest describes.
    """
    manifest_path = Path(manifest_file)
    manifest = read_json(manifest_path)
    samples_path = manifest_path.parent / manifest["samples_file"]
    if not samples_path.exists():
        raise UserError(f"{samples_path}: missing; delete {manifest_path} and run again so that it is remade")
    if digest_file(samples_path) != manifest["samples_sha256"]:
        raise UserError(
            f"{samples_path}: not the content that {manifest_path} describes (edited or damaged); "
            f"delete both files and run again so that they are remade"
        )
    return manifest, list(read_samples(samples_path))


def read_samples(path: str | Path) -> Iterator[Sample]:
    """Yield the canonical samples of a file that `usertune.data.prepare` wrote."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
