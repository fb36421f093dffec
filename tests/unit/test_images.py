"""Which image files are accepted, and what comes out of them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from usertune.data import images
from usertune.data.images import BadImageError, describe_image, load_image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def frames() -> bytes:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    return encoded(first, "PNG", save_all=True, append_images=[second])


PHOTO = Image.effect_noise((64, 48), 60).convert("RGB")
ROTATED = Image.Exif()
ROTATED[0x0112] = 6

GOOD = {
    "png": encoded(PHOTO, "PNG"),
    "jpeg": encoded(PHOTO, "JPEG"),
    "webp": encoded(PHOTO, "WEBP"),
    "cmyk": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "palette": encoded(PHOTO.convert("P"), "PNG"),
    "grey": encoded(PHOTO.convert("L"), "PNG"),
    "bilevel": encoded(PHOTO.convert("1"), "PNG"),
    "alpha": encoded(PHOTO.convert("RGBA"), "PNG"),
}
BAD = {
    "empty": (b"", "not an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "gif": (encoded(PHOTO, "GIF"), "not an image"),
    "truncated png": (encoded(PHOTO, "PNG")[:-200], "cannot be decoded"),
    "truncated jpeg": (encoded(PHOTO, "JPEG")[:-200], "cannot be decoded"),
    "animated": (frames(), "animated"),
    "16 bits": (encoded(Image.new("I;16", (8, 8)), "PNG"), "more than 8 bits"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_images_are_loaded_as_upright_rgb(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jpg").write_bytes(GOOD[name])
    record = describe_image(tmp_path, "a.jpg")
    image = load_image(tmp_path, record)
    assert (image.mode, image.size) == ("RGB", (64, 48)) == ("RGB", (record["width"], record["height"]))


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(PHOTO, "JPEG", exif=ROTATED))
    record = describe_image(tmp_path, "a.jpg")
    assert (record["width"], record["height"]) == (48, 64) == load_image(tmp_path, record).size


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert load_image(tmp_path, describe_image(tmp_path, "a.png")).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_with_a_reason(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BadImageError, match=message):
        describe_image(tmp_path, "a.png")


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(GOOD["png"])
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(BadImageError, match="too many"):
        describe_image(tmp_path, "a.png")


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    bomb = Image.new("1", (30_000, 30_000))
    bomb.save(tmp_path / "a.png")
    with pytest.raises(BadImageError):
        describe_image(tmp_path, "a.png")


def test_an_image_that_changed_since_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(GOOD["png"])
    record = describe_image(tmp_path, "a.png")
    (tmp_path / "a.png").write_bytes(GOOD["jpeg"])
    with pytest.raises(BadImageError, match="changed since"):
        load_image(tmp_path, record)
