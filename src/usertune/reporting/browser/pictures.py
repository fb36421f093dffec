"""The screenshots of the report: in the page, or in a folder next to it where they would make the page too large."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image

from usertune.core.errors import UserError
from usertune.core.files import replacement
from usertune.core.hashing import digest
from usertune.data.images import BadImageError, load_image
from usertune.data.samples import Image as ImageRecord
from usertune.reporting.browser.samples import SampleView

# Large enough to read a phone's screen, small enough for thousands of them.
LARGEST = (960, 960)
QUALITY = 80
# With more bytes of screenshots than this, as the page has them, it opens slowly.
LARGEST_IN_PAGE = 15_000_000
FOLDER = "report_images"
# Screenshots that are decoded at a time hold this many copies of an image in memory.
TOGETHER = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Picture:
    """One screenshot as the page shows it: its source in HTML, and its width and height in pixels."""

    source: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Pictures:
    """The screenshots of a page.

    Attributes:
        pictures: the different ones.
        of: SHA-256 of a screenshot's file -> index of its picture.
        folder: whether they are in the folder `FOLDER` next to the page.
        digest: of their contents.
    """

    pictures: tuple[Picture, ...]
    of: dict[str, int]
    folder: bool
    digest: str


def make_pictures(views: Iterable[SampleView], root: Path, page: Path) -> Pictures:
    """Return smaller copies of the screenshots of samples; equal screenshots share one.

    With more than `LARGEST_IN_PAGE` bytes they go to the folder `FOLDER`, where copies that an earlier report wrote are
    used again. The folder is removed where it is not needed.

    Args:
        views: the samples.
        root: folder to which the paths of screenshots are relative.
        page: the page; the folder is next to it.

    Raises:
        UserError: a screenshot is missing, or has changed since the models saw it.
    """
    first: dict[str, SampleView] = {}
    for view in views:
        if view.image is not None:
            first.setdefault(view.image["sha256"], view)
    folder, total, kept = page.parent / FOLDER, 0, dict[str, bytes]()
    names, sizes, contents = [], [], hashlib.sha256()
    for sha256, content in _copies(first, root, folder):
        name = _file_name(sha256)
        names.append(name)
        sizes.append(_size(content))
        contents.update(hashlib.sha256(content).digest())
        total += len(_embedded(content))
        kept[name] = content
        if total > LARGEST_IN_PAGE:
            _write(folder, kept)
            kept.clear()
    in_folder = total > LARGEST_IN_PAGE
    if in_folder:
        _write(folder, kept)
        _remove_others(folder, set(names))
    elif folder.is_dir():
        shutil.rmtree(folder)
    sources = [f"{FOLDER}/{name}" if in_folder else _embedded(kept[name]) for name in names]
    pictures = tuple(Picture(source, size) for source, size in zip(sources, sizes, strict=True))
    return Pictures(pictures, {sha256: index for index, sha256 in enumerate(first)}, in_folder, contents.hexdigest())


def _copies(views: dict[str, SampleView], root: Path, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (SHA-256 of a screenshot, its smaller copy), in order; a few are made at a time."""

    def copy(sha256: str) -> bytes:
        view = views[sha256]
        assert view.image is not None
        try:
            # Also where there is a copy: another report of the folder may have been made from other settings.
            earlier = (folder / _file_name(sha256)).read_bytes()
            return earlier if _is_whole(earlier) else _copy(root, view.image)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise UserError(f"{folder}: cannot be read ({error.strerror}); delete this folder") from None
        try:
            return _copy(root, view.image)
        except BadImageError as error:
            raise UserError(
                f"user {view.user}, sample {view.sample!r}: {error}; put the image back, or set report.samples: texts"
            ) from None

    with ThreadPoolExecutor(TOGETHER) as pool:
        waiting = iter(views)
        while batch := list(islice(waiting, 8 * TOGETHER)):
            yield from zip(batch, pool.map(copy, batch), strict=True)


def _copy(root: Path, record: ImageRecord) -> bytes:
    image = load_image(root, record)
    image.thumbnail(LARGEST, Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY, optimize=True)
    return content.getvalue()


def _is_whole(content: bytes) -> bool:
    return content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9")


def _size(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        return image.size


def _file_name(sha256: str) -> str:
    return f"{digest([sha256, LARGEST, QUALITY])[:24]}.jpg"


def _embedded(content: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != len(content):
            with replacement(path) as temporary:
                temporary.write_bytes(content)


def _remove_others(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in names and path.is_file():
            path.unlink()
