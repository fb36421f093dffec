"""Image files that are broken, or no images at all."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.mutations import HOSTILE_TEXTS, changed_bytes
from usertune.data.images import MAX_ASPECT_RATIO, MAX_PIXELS, BadImageError, describe_image, load_image

PICTURE = Image.effect_noise((24, 16), 60).convert("RGB")
EXIF = Image.Exif()
EXIF[0x0112] = 6
EXIF[0x010E] = "a description"
EXIF[0x8769] = {0x9003: "2026:01:01 00:00:00"}


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


WHOLE = [
    encoded(PICTURE, "PNG", exif=EXIF),
    encoded(PICTURE.convert("P"), "PNG", transparency=3),
    encoded(PICTURE.convert("LA"), "PNG"),
    encoded(PICTURE.convert("I;16"), "PNG"),
    encoded(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(180)]),
    encoded(PICTURE, "JPEG", exif=EXIF),
    encoded(PICTURE.convert("CMYK"), "JPEG", progressive=True),
    encoded(PICTURE, "WEBP", exif=EXIF),
    encoded(PICTURE.convert("RGBA"), "WEBP", lossless=True),
    encoded(PICTURE, "BMP"),
    encoded(PICTURE.convert("1"), "BMP"),
]
HEADERS = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x10\0\0\0WEBPVP8 ", b"BM", b"<svg ", b"GIF89a", b""]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@given(
    st.sampled_from(WHOLE).flatmap(changed_bytes)
    | st.builds(bytes.__add__, st.sampled_from(HEADERS), st.binary(max_size=200))
)
def test_any_file_is_an_image_or_is_refused(root: Path, content: bytes) -> None:
    (root / "a.png").write_bytes(content)
    with warnings.catch_warnings():
        # Pillow warns of broken metadata.
        warnings.simplefilter("ignore")
        try:
            record = describe_image(root, "a.png")
        except BadImageError as error:
            assert "a.png" in str(error)
            return
        image = load_image(root, record)
    width, height = record["width"], record["height"]
    assert (image.mode, image.size) == ("RGB", (width, height))
    assert 0 < width * height <= MAX_PIXELS
    assert max(width, height) <= MAX_ASPECT_RATIO * min(width, height)


@given(st.text(st.characters(), max_size=30) | st.sampled_from(HOSTILE_TEXTS) | st.text("./a\\\0\n", max_size=300))
def test_any_path_is_refused_where_there_is_no_image(root: Path, path: str) -> None:
    with pytest.raises(BadImageError) as caught:
        describe_image(root / "nothing", path)
    assert len(str(caught.value)) < 1000
    str(caught.value).encode("utf-8")
