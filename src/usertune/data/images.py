"""Open screenshots safely.

A file's path, kind, size in bytes and the image size in its header are checked in this order, before any pixel is
decoded: a small file can ask for more memory than there is.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from usertune.core.errors import shown
from usertune.data.samples import Image as ImageRecord
from usertune.data.samples import path_problem

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_BYTES = 1 << 30
MAX_PIXELS = 100_000_000
# The limit of Qwen3-VL's image processor, which would refuse the image hours later, in a GPU job.
MAX_ASPECT_RATIO = 200
LONGEST_NAME_SHOWN = 100
# The EXIF orientation of an image that is stored as it is seen, and those with which width and height change places.
UPRIGHT = 1
ON_ITS_SIDE = (5, 6, 7, 8)
# Bytes before the first chunk of a PNG.
PNG_SIGNATURE = 8

Look = Callable[[str, Image.Image], None]


class BadImageError(ValueError):
    """A sample may not use this image file; the message says why."""


def describe_image(root: Path, relative_path: str, look: Look | None = None) -> ImageRecord:
    """Open and decode one image, and return its record with the SHA-256 of the file's bytes.

    Args:
        root: folder of the raw data.
        relative_path: path of the image below it.
        look: called with the SHA-256 and the decoded image, for what else is measured of an image.

    Raises:
        BadImageError: `resolve_inside` refuses the path; the path is missing, a folder, a pipe or a device; or the file
            is larger than `MAX_BYTES`, is not an image, is truncated or animated, or has more than `MAX_PIXELS`, an
            aspect ratio above `MAX_ASPECT_RATIO`, or one channel of more than 8 bits.
    """
    path = resolve_inside(root, relative_path)
    name = _shorten(relative_path)
    try:
        content = _read_file(path, name)
    except FileNotFoundError:
        raise BadImageError(f"the image {name} does not exist below {root}") from None
    except OSError as error:
        raise BadImageError(f"the image {name} cannot be read: {error.strerror}") from None
    return _record(relative_path, content, name, look)


def describe_embedded(relative_path: str, content: bytes, look: Look | None = None) -> ImageRecord:
    """Return the record of an image inside a file of the raw data, see `describe_image`.

    Args:
        relative_path: the path that it gets, relative to the prepared samples.
        content: its bytes.
        look: see `describe_image`.

    Raises:
        BadImageError: see `describe_image`.
    """
    if len(content) > MAX_BYTES:
        raise BadImageError(f"the image has {len(content):,} bytes; at most {MAX_BYTES:,} are read")
    return {**_record(relative_path, content, "inside the file", look), "stored": True}


def locate(root: Path, record: ImageRecord) -> Path:
    """Return the path of an image: below the dataset's root, or below the prepared samples if it is stored there.

    Raises:
        BadImageError: see `resolve_inside`.
    """
    return resolve_inside(Path(record["folder"]) if record.get("stored") else root, record["path"])


def load_image(root: str | Path, record: ImageRecord) -> Image.Image:
    """Load an image as RGB, upright (EXIF rotation applied), after checking its bytes against the record.

    Raises:
        BadImageError: the file is missing, unreadable, or no longer has the recorded bytes.
    """
    return _decode(read_checked(Path(root), record), _shorten(record["path"]))


def read_checked(root: Path, record: ImageRecord) -> bytes:
    """Return the bytes of an image's file.

    Raises:
        BadImageError: the file is missing, unreadable, or no longer has the recorded bytes.
    """
    path = locate(root, record)
    try:
        content = _read_file(path, str(path))
    except OSError as error:
        raise BadImageError(f"{path}: cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        if record.get("stored"):
            raise BadImageError(f"{path}: edited or damaged; delete this copy and run snakemake again")
        raise BadImageError(f"{path}: changed since its user's data were prepared; run snakemake again")
    return content


def is_turned(path: Path) -> bool:
    """Whether an image's EXIF orientation says that it is to be turned or mirrored.

    Reads the header, see `_orientation`.

    Raises:
        BadImageError: the file is missing or is not an image.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return _orientation(image, path) != UPRIGHT
    except OSError as error:
        raise BadImageError(f"{path}: cannot be read: {error.strerror or error}") from None


def _orientation(image: Image.Image, path: Path) -> int:
    """Return an image's EXIF orientation; decodes only a PNG with EXIF data or texts after its pixels."""
    # Pillow decodes every PNG without EXIF data before its pixels, to look for them after these.
    before = image.format == "PNG" and "exif" not in image.info and not _has_late_metadata(path)
    exif = Image.Image.getexif(image) if before else image.getexif()
    return int(exif.get(ExifTags.Base.Orientation, UPRIGHT))


def _has_late_metadata(path: Path) -> bool:
    """Whether chunks that may name an orientation come after the pixels of a PNG."""
    with path.open("rb") as file:
        file.seek(PNG_SIGNATURE)
        after_pixels = False
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if after_pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            after_pixels = after_pixels or kind == b"IDAT"
            # Past the content and its checksum.
            file.seek(size + 4, os.SEEK_CUR)
    return False


def size_in_header(root: Path, relative_path: str) -> tuple[int, int]:
    """Return width and height of an image in pixels, after EXIF rotation. Reads the header, see `_orientation`.

    Args:
        root: folder of the raw data.
        relative_path: path of the image below it.

    Raises:
        BadImageError: see `describe_image`; pixels that are truncated or damaged are not seen.
    """
    path, name = resolve_inside(root, relative_path), _shorten(relative_path)
    try:
        _check_file(path.stat(), name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                _check_header(image, name)
                turned = _orientation(image, path) in ON_ITS_SIDE
                return (image.height, image.width) if turned else image.size
    except (BadImageError, MemoryError):
        raise
    # As in _decode.
    except Exception as error:
        raise BadImageError(f"the image {name} cannot be read: {error}") from None


def resolve_inside(root: Path, relative_path: str) -> Path:
    """Return ``root / relative_path``.

    Raises:
        BadImageError: the path is refused by `usertune.data.samples.path_problem`.
    """
    if problem := path_problem(relative_path):
        raise BadImageError(f"the image path {shown(relative_path)} {problem}")
    return root / relative_path


def _record(relative_path: str, content: bytes, name: str, look: Look | None) -> ImageRecord:
    image = _decode(content, name)
    sha256 = hashlib.sha256(content).hexdigest()
    if look is not None:
        look(sha256, image)
    width, height = image.size
    return {"path": relative_path, "sha256": sha256, "width": width, "height": height}


def _read_file(path: Path, name: str) -> bytes:
    _check_file(path.stat(), name)
    return path.read_bytes()


def _check_file(status: os.stat_result, name: str) -> None:
    # Opening a pipe without a writer would wait forever.
    if not stat.S_ISREG(status.st_mode):
        raise BadImageError(f"the image {name} is not a file but a folder, a pipe or a device")
    if status.st_size > MAX_BYTES:
        raise BadImageError(f"the image {name} has {status.st_size:,} bytes; at most {MAX_BYTES:,} are read")


def _decode(content: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns from its own limit on, and raises from twice that; _check_header has a limit of its own.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_header(image, name)
                return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise BadImageError(f"{name} is not an image in one of the formats {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise BadImageError(f"the image {name} is far too large; at most {MAX_PIXELS:,} pixels are decoded") from None
    except (BadImageError, MemoryError):
        raise
    # On broken metadata, Pillow raises errors of many kinds, struct.error and TypeError among them.
    except Exception as error:
        raise BadImageError(f"the image {name} cannot be decoded: {error}") from None


def _check_header(image: Image.Image, name: str) -> None:
    """Check an image's header, before its pixels are decoded."""
    size = f"{image.width} x {image.height} pixels"
    if image.width * image.height > MAX_PIXELS:
        raise BadImageError(f"the image {name} has {size}; at most {MAX_PIXELS:,} pixels are decoded")
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        raise BadImageError(f"the image {name} has {size}; one side may be at most {MAX_ASPECT_RATIO} times the other")
    if image.mode.startswith("I") or image.mode == "F":
        raise BadImageError(f"the image {name} is of mode {image.mode}; more than 8 bits a channel are not supported")
    frames = getattr(image, "n_frames", 1)
    # Phones write MPO files named .jpg: the photo, then a depth map, a preview or the like.
    if frames > 1 and image.format != "MPO":
        raise BadImageError(f"the image {name} is animated ({frames} frames)")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # Viewers show transparent pixels on white; convert() alone would reveal hidden colours.
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(background, layer).convert("RGB")
    return image.convert("RGB")


def _shorten(name: str) -> str:
    # Some datasets have the image itself in place of its path.
    return name if len(name) <= LONGEST_NAME_SHOWN else name[: LONGEST_NAME_SHOWN - 1] + "…"
