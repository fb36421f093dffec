"""Which image files are accepted, and how they are decoded."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from usertune.data import images
from usertune.data.images import BadImageError, describe_image, load_image
from usertune.models.recipe import Pixels

BASE = Path(__file__).parents[3] / "demo" / "base"
TOO_MANY = "100,000,000 pixels are decoded"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    """Return a PNG of any size and depth; colour 0 is grey, 2 RGB, 4 grey with alpha."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + content + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    """Return a small JPEG with another size in its header."""
    content = encoded(PHOTO, "JPEG")
    offset = content.index(b"\xff\xc0") + 5
    return content[:offset] + struct.pack(">HH", height, width) + content[offset + 4 :]


def webp_header(width: int, height: int) -> bytes:
    """Return the beginning of a lossless WebP."""
    data = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(17)
    body = b"WEBPVP8L" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp_header(width: int, height: int) -> bytes:
    content = encoded(PHOTO, "BMP")
    return content[:18] + struct.pack("<ii", width, height) + content[26:]


def two_frames(kind: str) -> bytes:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    return encoded(first, kind, save_all=True, append_images=[second])


def rotated_with_broken_metadata() -> bytes:
    """Return a rotated JPEG with its description under the tag of the image's width, which is a number."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    content = encoded(PHOTO, "JPEG", exif=exif)
    tag, wrong_tag = (struct.pack("<HH", number, 2) for number in (0x010E, 0x0100))
    if tag not in content:
        tag, wrong_tag = (struct.pack(">HH", number, 2) for number in (0x010E, 0x0100))
    assert content.count(tag) == 1
    return content.replace(tag, wrong_tag)


PHOTO = Image.effect_noise((64, 48), 60).convert("RGB")
ROTATED = Image.Exif()
ROTATED[0x0112] = 6

GOOD = {
    "png": encoded(PHOTO, "PNG"),
    "jpeg": encoded(PHOTO, "JPEG"),
    "webp": encoded(PHOTO, "WEBP"),
    "bmp": encoded(PHOTO, "BMP"),
    "cmyk": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "palette": encoded(PHOTO.convert("P"), "PNG"),
    "palette with transparency": encoded(PHOTO.convert("P"), "PNG", transparency=3),
    "grey": encoded(PHOTO.convert("L"), "PNG"),
    "bilevel": encoded(PHOTO.convert("1"), "PNG"),
    "alpha": encoded(PHOTO.convert("RGBA"), "PNG"),
    "grey with alpha": encoded(PHOTO.convert("LA"), "PNG"),
}
GREY_16 = b"\0" + struct.pack(">2H", 0xABCD, 0x1234)
LONG_TEXT = zlib.compress(bytes(100_000_000), 9)
BOMBS = {
    # Its pixels could be decoded: 12 kB would become 400 MB.
    "png": png(10_001, 10_001, 1, 0, bytes(1252 * 10_001)),
    "huge png": png(2**31 - 1, 2**31 - 1, 8, 2, b""),
    "jpeg": jpeg_header(12_000, 12_000),
    "huge jpeg": jpeg_header(65_535, 65_535),
    "webp": webp_header(12_000, 12_000),
    "huge webp": webp_header(16_383, 16_383),
    "bmp": bmp_header(12_000, 12_000),
}
TEXT_BOMBS = {
    "compressed text": png(1, 1, 8, 2, b"\0abc", chunk(b"zTXt", b"a\0\0" + LONG_TEXT)),
    "international text": png(1, 1, 8, 2, b"\0abc", chunk(b"iTXt", b"a\0\1\0\0\0" + LONG_TEXT)),
    "colour profile": png(1, 1, 8, 2, b"\0abc", chunk(b"iCCP", b"a\0\0" + LONG_TEXT)),
}
BAD = {
    "empty": (b"", "not an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "gif": (encoded(PHOTO, "GIF"), "not an image"),
    "no width": (png(0, 1, 8, 2, b"\0"), "not an image"),
    "no height": (png(1, 0, 8, 2, b""), "not an image"),
    "truncated png": (encoded(PHOTO, "PNG")[:-200], "cannot be decoded"),
    "truncated jpeg": (encoded(PHOTO, "JPEG")[:-200], "cannot be decoded"),
    "truncated webp": (encoded(PHOTO, "WEBP")[:-200], "cannot be decoded|not an image"),
    "broken metadata": (rotated_with_broken_metadata(), "cannot be decoded"),
    "animated png": (two_frames("PNG"), r"animated \(2 frames\)"),
    "animated webp": (two_frames("WEBP"), r"animated \(2 frames\)"),
    "16 bits grey": (png(2, 1, 16, 0, GREY_16), "more than 8 bits"),
    "16 bits grey, one of them transparent": (
        png(2, 1, 16, 0, GREY_16, chunk(b"tRNS", struct.pack(">H", 0x1234))),
        "more than 8 bits",
    ),
    "long": (encoded(Image.new("RGB", (1, 201)), "PNG"), "one side may be at most 200 times the other"),
    **{f"bomb of {name}": (content, "cannot be decoded") for name, content in TEXT_BOMBS.items()},
}


@pytest.mark.parametrize("cut", [None, -100], ids=["whole", "second picture cut off"])
@pytest.mark.parametrize("rotated", [False, True])
def test_of_a_phones_photo_the_first_picture_is_read(tmp_path: Path, cut: int | None, rotated: bool) -> None:
    options = {"exif": ROTATED} if rotated else {}
    preview = Image.new("RGB", (16, 12), "blue")
    content = encoded(PHOTO, "MPO", save_all=True, append_images=[preview], **options)
    (tmp_path / "a.jpg").write_bytes(content[:cut])
    record = describe_image(tmp_path, "a.jpg")
    (tmp_path / "plain.jpg").write_bytes(encoded(PHOTO, "JPEG", **options))
    plain = describe_image(tmp_path, "plain.jpg")
    assert (record["width"], record["height"]) == ((48, 64) if rotated else (64, 48))
    assert load_image(tmp_path, record).tobytes() == load_image(tmp_path, plain).tobytes()


@pytest.mark.parametrize("name", GOOD)
def test_good_images_are_loaded_as_upright_rgb(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jpg").write_bytes(GOOD[name])
    record = describe_image(tmp_path, "a.jpg")
    image = load_image(tmp_path, record)
    assert (image.mode, image.size) == ("RGB", (64, 48)) == ("RGB", (record["width"], record["height"]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_applied(tmp_path: Path, kind: str) -> None:
    photo = Image.new("RGB", (64, 48), "blue")
    photo.paste("red", (0, 0, 64, 24))
    (tmp_path / "a.jpg").write_bytes(encoded(photo, kind, exif=ROTATED))
    record = describe_image(tmp_path, "a.jpg")
    image = load_image(tmp_path, record)
    assert (record["width"], record["height"]) == (48, 64) == image.size
    # The upper half was turned to the right.
    assert [image.getpixel((x, 60))[0] > 200 for x in (4, 44)] == [False, True]


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1)])
def test_small_and_long_images_are_accepted(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", size, "red"), "PNG"))
    assert load_image(tmp_path, describe_image(tmp_path, "a.png")).size == size


def test_the_longest_image_is_the_longest_that_the_model_takes() -> None:
    from usertune.models.loading import load_processor

    processor = load_processor(BASE, Pixels(min=None, max=None)).image_processor
    longest = images.MAX_ASPECT_RATIO
    assert len(processor(images=[Image.new("RGB", (1, longest))], return_tensors="pt")["image_grid_thw"]) == 1
    with pytest.raises(ValueError, match="aspect ratio"):
        processor(images=[Image.new("RGB", (1, longest + 1))], return_tensors="pt")


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    for content in (
        encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 0)), "PNG"),
        encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 0)), "WEBP", lossless=True),
        encoded(palette, "PNG", transparency=0),
        encoded(palette, "PNG", transparency=b"\0\xff"),
    ):
        (tmp_path / "a.png").write_bytes(content)
        assert load_image(tmp_path, describe_image(tmp_path, "a.png")).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(tmp_path, describe_image(tmp_path, "a.png")).getpixel((1, 0)) == (0, 0, 255)


def test_of_16_bits_a_colour_the_upper_8_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1, 1, 16, 2, b"\0" + struct.pack(">3H", 0xABCD, 0x1234, 0xFFFF)))
    assert load_image(tmp_path, describe_image(tmp_path, "a.png")).getpixel((0, 0)) == (0xAB, 0x12, 0xFF)


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_with_a_reason(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadImageError, match=message):
        describe_image(tmp_path, "a.jpg")


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(BOMBS[name]) < 20_000
    (tmp_path / "a.png").write_bytes(BOMBS[name])
    loaded: list[Image.Image] = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", loaded.append)
    with pytest.raises(BadImageError, match=TOO_MANY):
        describe_image(tmp_path, "a.png")
    assert not loaded


MEASURE = """
import json, re, sys
from pathlib import Path
from usertune.data.images import BadImageError, describe_image
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
root, names = json.loads(sys.argv[1])
describe_image(Path(root), "good")
before = peak()
for name in names:
    try:
        describe_image(Path(root), name)
    except BadImageError:
        continue
    raise SystemExit(f"{name} was accepted")
print(peak() - before)
"""


def test_bombs_take_no_memory(tmp_path: Path, run_python: Callable[..., subprocess.Popen[str]]) -> None:
    bombs = {**BOMBS, **TEXT_BOMBS}
    for name, content in {**bombs, "good": GOOD["png"]}.items():
        (tmp_path / name).write_bytes(content)
    output, error = run_python(MEASURE, [tmp_path, list(bombs)]).communicate(timeout=60)
    assert not error
    assert int(json.loads(output)) < 20_000, "kB more than before"


def test_the_limit_of_pixels_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(GOOD["png"])
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 48)
    assert describe_image(tmp_path, "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(BadImageError, match="64 x 48 pixels; at most 3,071"):
        describe_image(tmp_path, "a.png")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.write(GOOD["png"])
        file.truncate(50 << 30)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(BadImageError, match="53,687,091,200 bytes; at most 1,073,741,824 are read"):
        describe_image(tmp_path, "a.png")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused_and_does_not_hang(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.png")
    with pytest.raises(BadImageError, match="not a file but a folder, a pipe or a device"):
        describe_image(tmp_path, "a.png")
    record = {"path": "a.png", "sha256": "0" * 64, "width": 1, "height": 1}
    with pytest.raises(BadImageError, match="not a file"):
        load_image(tmp_path, record)


def test_a_link_may_lead_out_of_the_dataset_since_its_owner_made_it(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(GOOD["png"])
    (root / "images").symlink_to(elsewhere)
    (root / "b.png").symlink_to(elsewhere / "a.png")
    for path in ("images/a.png", "b.png"):
        assert describe_image(root, path)["sha256"] == hashlib.sha256(GOOD["png"]).hexdigest()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "must be relative"),
        ("/etc/passwd", "must be relative"),
        ("..", "without '..'"),
        ("../a.png", "without '..'"),
        ("images/../../a.png", "without '..'"),
        ("a\0.png", "control character"),
        ("a\n.png", "line break"),
        ("a\u2028.png", "line break"),
        ("\x1b[2J.png", "control character"),
        (os.fsdecode(b"\xff.png"), "broken Unicode"),
        ("x" * 300 + ".png", "File name too long"),
        ("a/" * 600 + "a.png", "longer than 1000 characters"),
        ("data:image/png;base64," + "A" * 100_000, "longer than 1000 characters"),
        ("missing.png", "does not exist below"),
        ("good.png/a.png", "Not a directory"),
        ("self.png", "Too many levels of symbolic links"),
    ],
)
def test_a_bad_path_is_refused_with_a_short_reason(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "good.png").write_bytes(GOOD["png"])
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(GOOD["png"])
    (tmp_path / "self.png").symlink_to("self.png")
    with pytest.raises(BadImageError, match=message) as caught:
        describe_image(tmp_path, path)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "path", ["a b.png", "..a..png", "$(touch x).png", "'\".png", "中\u202f文.png", "-rf", "{x}.png"]
)
def test_strange_names_are_names(tmp_path: Path, path: str) -> None:
    (tmp_path / path).write_bytes(GOOD["png"])
    assert describe_image(tmp_path, path)["path"] == path


def test_an_image_that_changed_since_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(GOOD["png"])
    record = describe_image(tmp_path, "a.png")
    (tmp_path / "a.png").write_bytes(GOOD["jpeg"])
    with pytest.raises(BadImageError, match="changed since"):
        load_image(tmp_path, record)


def test_an_image_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(GOOD["png"])
    record = describe_image(tmp_path, "a.png")

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    # Whoever runs the tests may be allowed everything.
    monkeypatch.setattr(Path, "read_bytes", refuse)
    for read in (lambda: describe_image(tmp_path, "a.png"), lambda: load_image(tmp_path, record)):
        with pytest.raises(BadImageError, match=r"a\.png.* cannot be read: Permission denied"):
            read()
