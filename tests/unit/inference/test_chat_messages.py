"""Samples as messages for a server: images as the base model's processor scales them."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.conftest import BASE
from usertune.data.images import BadImageError
from usertune.inference.server.chat import ChatMessages
from usertune.models.families.catalogue import family_of
from usertune.models.loading import load_processor
from usertune.models.model_shape import image_limits
from usertune.models.recipe import Pixels

LIMITS = Pixels(min=64 * 64, max=160 * 160)


def noise(*size: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def saved(root: Path, name: str, image: Image.Image, **options: Any) -> dict[str, Any]:
    """Save an image, and return a sample's record of it."""
    image.save(root / name, **options)
    content = (root / name).read_bytes()
    width, height = image.size
    if "exif" in options:
        width, height = height, width
    return {"path": name, "sha256": hashlib.sha256(content).hexdigest(), "width": width, "height": height}


def sent(root: Path, record: dict[str, Any], pixels: Pixels | None = LIMITS) -> tuple[str, bytes]:
    """Return kind and bytes of the image that is sent for a record."""
    limits = image_limits(BASE, pixels) if pixels else None
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}
    sample: Any = {"messages": [question, {"role": "assistant", "content": []}], "images": [record]}
    (turn,) = ChatMessages(root, family_of(BASE), limits).prompt(sample)
    image, text = turn["content"]
    assert text == {"type": "text", "text": "Where?"}
    head, _, content = image["image_url"]["url"].partition(";base64,")
    return head.removeprefix("data:"), base64.b64decode(content)


@pytest.mark.parametrize("size", [(90, 200), (300, 100), (20, 20), (31, 161), (160, 160)])
def test_an_image_is_scaled_as_the_processor_scales_it(tmp_path: Path, size: tuple[int, int]) -> None:
    record = saved(tmp_path, "a.png", noise(*size))
    kind, content = sent(tmp_path, record)
    image = Image.open(io.BytesIO(content))
    processor = load_processor(BASE, LIMITS).image_processor
    _, rows, columns = processor(images=[noise(*size)], return_tensors="pt")["image_grid_thw"][0].tolist()
    assert (kind, image.size) == ("image/png", (columns * processor.patch_size, rows * processor.patch_size))
    # A server with the same limits leaves it as it is.
    again = processor(images=[image], return_tensors="pt")["image_grid_thw"][0].tolist()
    assert again == [1, rows, columns]


@pytest.mark.parametrize(
    ("name", "mode", "kind"),
    [("a.png", "RGB", "image/png"), ("a.jpg", "RGB", "image/jpeg"), ("a.png", "L", "image/png")],
)
def test_a_file_that_needs_no_change_is_sent_as_it_is(tmp_path: Path, name: str, mode: str, kind: str) -> None:
    record = saved(tmp_path, name, noise(96, 128).convert(mode))
    assert sent(tmp_path, record) == (kind, (tmp_path / name).read_bytes())


@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGBA"), ("a.png", "P"), ("a.bmp", "RGB"), ("a.webp", "RGB")])
def test_other_files_are_sent_as_opaque_png(tmp_path: Path, name: str, mode: str) -> None:
    record = saved(tmp_path, name, noise(96, 128).convert(mode))
    kind, content = sent(tmp_path, record)
    image = Image.open(io.BytesIO(content))
    assert (kind, image.format, image.mode, image.size) == ("image/png", "PNG", "RGB", (96, 128))


def test_a_turned_photo_is_sent_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    record = saved(tmp_path, "a.jpg", noise(96, 128), exif=exif)
    kind, content = sent(tmp_path, record)
    assert (kind, Image.open(io.BytesIO(content)).size) == ("image/png", (128, 96))


def test_files_can_be_sent_in_their_own_size(tmp_path: Path) -> None:
    record = saved(tmp_path, "a.jpg", noise(301, 77))
    assert sent(tmp_path, record, None) == ("image/jpeg", (tmp_path / "a.jpg").read_bytes())


def test_a_changed_image_is_refused(tmp_path: Path) -> None:
    record = saved(tmp_path, "a.png", noise(96, 128))
    noise(96, 160).save(tmp_path / "a.png")
    with pytest.raises(BadImageError, match="changed since its user's data were prepared"):
        sent(tmp_path, record)


def test_turns_without_images_are_plain_text(tmp_path: Path) -> None:
    def turn(role: str, *texts: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text} for text in texts]}

    turns = [turn("system", "Be ", "brief."), turn("user", "One?"), turn("assistant", "1"), turn("user", "a", "b")]
    sample: Any = {"messages": [*turns, turn("assistant", "2")], "images": []}
    found = ChatMessages(tmp_path, family_of(BASE), None).prompt(sample)
    assert [message["content"] for message in found] == ["Be brief.", turns[1]["content"], "1", turns[3]["content"]]
    assert ChatMessages(tmp_path, family_of(BASE), None).conversation(sample)[-1] == {
        "role": "assistant",
        "content": "2",
    }
