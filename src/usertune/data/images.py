"""Opening screenshots safely."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from usertune.data.samples import Image as ImageRecord

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_PIXELS = 100_000_000


class BadImageError(ValueError):
    """The file is not an image that a sample may use; the message says why."""


def describe_image(root: Path, relative_path: str) -> ImageRecord:
    """Open and decode one image, and return its record with the digest of the file's bytes.

    Raises:
        BadImageError: the file is missing, outside ``root``, not an image, truncated, animated or too large.
    """
    path = resolve_inside(root, relative_path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadImageError(f"the image {relative_path} does not exist below {root}") from None
    except OSError as error:
        raise BadImageError(f"the image {relative_path} cannot be read: {error.strerror}") from None
    width, height = _decode(content, relative_path).size
    sha256 = hashlib.sha256(content).hexdigest()
    return {"path": relative_path, "sha256": sha256, "width": width, "height": height}


def load_image(root: str | Path, record: ImageRecord) -> Image.Image:
    """Load an image as RGB, upright (EXIF rotation applied), after checking its bytes against the record.

    Raises:
        BadImageError: the file is missing, unreadable, or no longer has the recorded bytes.
    """
    path = resolve_inside(Path(root), record["path"])
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadImageError(f"{path}: cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise BadImageError(f"{path}: changed since its user's data were prepared; run snakemake again")
    return _decode(content, record["path"])


def resolve_inside(root: Path, relative_path: str) -> Path:
    """Return ``root / relative_path``; a path that is absolute or climbs out of ``root`` is refused.

    Raises:
        BadImageError: the path is absolute or contains ``..``, or cannot be a file name.
    """
    relative = Path(relative_path)
    if not relative_path or relative.is_absolute() or ".." in relative.parts or "\0" in relative_path:
        raise BadImageError(f"the image path {relative_path!r} must be relative to the dataset's root, without '..'")
    return root / relative


def _decode(content: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow only warns between one and two times its own limit; the size is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadImageError(f"the image {name} has {image.width} x {image.height} pixels; too many")
                frames = getattr(image, "n_frames", 1)
                if frames > 1:
                    raise BadImageError(f"the image {name} is animated ({frames} frames)")
                return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise BadImageError(f"{name} is not an image in one of the formats {', '.join(FORMATS)}") from None
    except BadImageError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadImageError(f"the image {name} cannot be decoded: {error}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # Transparent pixels are shown on white, as viewers do; convert() alone would reveal hidden colours.
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(background, layer).convert("RGB")
    if image.mode.startswith("I") or image.mode == "F":
        raise BadImageError(f"images of mode {image.mode} (more than 8 bits a channel) are not supported")
    return image.convert("RGB")
