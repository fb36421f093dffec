"""Perceptual hashes of screenshots, and the store of those that were computed.

Two screenshots with hashes that differ in few bits look alike, even if their bytes differ. docs/data.md says how many
bits differ between which kinds of screenshots.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import imagehash
from PIL import Image, ImageStat

from usertune.core.errors import UserError
from usertune.core.manifest import read_result, write_result

# The name of the hash in recipes and stores. Another hash needs another name.
METHOD = "phash 16x16"
SIDE = 16
BITS = SIDE * SIDE
# The library reduces an image to 64 x 64 pixels, slowly. Whole pixels are averaged first, down to this shorter side.
REDUCED_SIDE = 256
# An image of one colour has no structure, and the bits of its hash would be rounding errors.
LEAST_CONTRAST = 1.0


def perceptual_hash(image: Image.Image) -> str | None:
    """Return the perceptual hash of an image: 64 hex digits, or None for an image of one colour.

    The hash has one bit for each of the 16 x 16 lowest frequencies of the cosine transform of the brightness: whether
    it is above the median (ImageHash's ``phash``; Krawetz 2011, "Looks like it", hackerfactor.com). It hardly depends
    on size, compression, and small parts such as a clock.
    """
    grey = image.convert("L")
    factor = min(grey.size) // REDUCED_SIDE
    if factor > 1:
        grey = grey.reduce(factor)
    if ImageStat.Stat(grey).stddev[0] < LEAST_CONTRAST:
        return None
    return str(imagehash.phash(grey, hash_size=SIDE))


class HashStore:
    """Keeps the hashes of each user's images, so that no image is decoded again for them.

    A hash depends only on the bytes of its image. The store can be deleted at any time.

    Args:
        folder: folder with one file for each user.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, user: str) -> dict[str, str | None]:
        """Return SHA-256 of an image -> its hash; empty if the file is missing, damaged or of another method."""
        with suppress(UserError, OSError, KeyError, TypeError, AttributeError):
            stored = read_result(self._file(user))
            if stored["method"] == METHOD:
                return dict(stored["hashes"])
        return {}

    def write(self, user: str, hashes: Mapping[str, str | None]) -> None:
        """Replace a user's hashes.

        Raises:
            OSError: the file cannot be written.
        """
        write_result(self._file(user), {"method": METHOD, "hashes": dict(hashes)})

    def _file(self, user: str) -> Path:
        return self.folder / f"user_{user}.json"
