"""Sizes of images from their headers alone."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import ExifTags, Image, ImageFile

from usertune.data.images import BadImageError, describe_image, is_turned, size_in_header


def _write(path: Path, kind: str, orientation: int | None = None, size: tuple[int, int] = (64, 48)) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    content = io.BytesIO()
    Image.new("RGB", size).save(content, kind, **({"exif": exif} if orientation else {}))
    path.write_bytes(content.getvalue())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_the_size_is_read_without_a_pixel(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "a.png", kind)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    assert size_in_header(tmp_path, "a.png") == (64, 48)
    assert not is_turned(tmp_path / "a.png")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_size_is_that_of_the_upright_image(tmp_path: Path, kind: str, orientation: int) -> None:
    _write(tmp_path / "a.jpg", kind, orientation)
    record = describe_image(tmp_path, "a.jpg")
    assert size_in_header(tmp_path, "a.jpg") == (record["width"], record["height"])
    assert is_turned(tmp_path / "a.jpg") == (orientation != 1)


def test_an_orientation_after_the_pixels_of_a_png_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    _write(path, "PNG", 6)
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    # Length, kind, content, checksum.
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    record = describe_image(tmp_path, "a.png")
    assert size_in_header(tmp_path, "a.png") == (record["width"], record["height"]) == (48, 64)
    assert is_turned(path)


def test_a_cut_image_still_has_its_size(tmp_path: Path) -> None:
    _write(tmp_path / "a.png", "JPEG", size=(640, 480))
    path = tmp_path / "a.png"
    path.write_bytes(path.read_bytes()[:-500])
    assert size_in_header(tmp_path, "a.png") == (640, 480)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "make",
    [Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.write_text("{}")],
    ids=["empty", "folder", "pipe", "device", "text"],
)
def test_what_is_no_image_is_refused_and_does_not_hang(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "a.png")
    with pytest.raises(BadImageError, match=r"the image a\.png"):
        size_in_header(tmp_path, "a.png")


def test_the_limits_are_those_of_prepared_images(tmp_path: Path) -> None:
    _write(tmp_path / "a.png", "PNG", size=(1, 201))
    with pytest.raises(BadImageError, match="one side may be at most 200 times the other"):
        size_in_header(tmp_path, "a.png")
    with pytest.raises(BadImageError, match=r"must be relative to the dataset's root"):
        size_in_header(tmp_path, "../a.png")
