"""Copies of images that are inside the files of the raw data, next to the prepared samples.

They are named by their content, ``images/<two digits>/<SHA-256>.<kind>``, so users who share an image share its file,
and a job that runs again writes nothing new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from usertune.core.files import atomic_writer
from usertune.core.hashing import digest_file

FOLDER = "images"
_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"BM": "bmp", b"RIFF": "webp"}


def stored_path(content: bytes) -> str:
    """Return the path of an image relative to the prepared samples."""
    sha256 = hashlib.sha256(content).hexdigest()
    kind = next((kind for start, kind in _KINDS.items() if content.startswith(start)), "bin")
    return f"{FOLDER}/{sha256[:2]}/{sha256}.{kind}"


def recorded_digest(path: str) -> str:
    """Return the SHA-256 of an image by its stored path."""
    return Path(path).stem


class ImageStore:
    """Keeps embedded images of a user below the folder of the prepared samples.

    Attributes:
        sizes: path -> bytes of the images so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes: dict[str, int] = {}

    def keep(self, path: str, content: bytes) -> None:
        """Store an image under its `stored_path`, atomically; an undamaged file is left as it is."""
        file = self.folder / path
        if not (file.is_file() and file.stat().st_size == len(content) and digest_file(file) == recorded_digest(path)):
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_writer(file) as out:
                out.write(content)
        self.sizes[path] = len(content)


def has_stored(folder: Path, sizes: Mapping[str, int]) -> bool:
    """Whether images are there with their sizes."""
    return all((file := folder / path).is_file() and file.stat().st_size == size for path, size in sizes.items())
