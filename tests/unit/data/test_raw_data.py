"""The state of the raw data, as planning and the prepare job see it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from usertune.data.raw_data import RawData, WatchImages
from usertune.data.readers.messages import MessagesReader


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Raw data of user 7, with one image."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"an image")
    content = [{"type": "image", "image": "images/a.png"}]
    (tmp_path / "user_7.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": content}]}))
    return tmp_path


def raw_data(root: Path, watch_images: WatchImages = "stat") -> RawData:
    return RawData(root, MessagesReader(root), watch_images)


def test_image_stats_follow_the_files(root: Path) -> None:
    stat = (root / "images" / "a.png").stat()
    assert raw_data(root).image_stats("7") == [("images/a.png", stat.st_size, stat.st_mtime_ns)]
    (root / "images" / "a.png").unlink()
    assert raw_data(root).image_stats("7") == [("images/a.png", -1, -1)]


@pytest.mark.parametrize("name", ["images/a.png", "images//a.png", "./images/./a.png", "images/a.png/", "a.png"])
def test_every_way_to_write_a_path_finds_the_image(root: Path, name: str) -> None:
    (root / "a.png").write_bytes(b"an image")
    raw = (root / "user_7.jsonl").read_text()
    (root / "user_7.jsonl").write_text(raw.replace("images/a.png", name))
    ((path, size, _),) = raw_data(root).image_stats("7")
    assert (path, size) == (name, len(b"an image"))


@pytest.mark.parametrize(
    "other",
    [
        r'"text": "half of a pair: \ud83d"',
        '"text": NaN',
        '"text": 123456789012345678901234567890',
        '"text": ' + 300 * "[" + 300 * "]",
        '"image": "images/b.png"',
        r'"te\u0078t": "an escaped key"',
    ],
)
def test_images_of_samples_that_only_json_parses_are_watched(root: Path, other: str) -> None:
    part = '{"type": "image", ' + other + r', "image": "images/\u0061.png"}'
    line = f'{{"messages": [{{"role": "user", "content": [{part}]}}]}}'
    json.loads(line)
    (root / "user_7.jsonl").write_text(f'not JSON\n{line}\n{{"messages": [{{"content": "text"}}]}}\n[1]\n')
    assert raw_data(root).reader.images("7") == {"images/a.png"}


def test_a_link_that_leads_nowhere_hides_no_other_image(root: Path) -> None:
    (root / "images" / "broken.png").symlink_to("nowhere")
    ((path, size, _),) = raw_data(root).image_stats("7")
    assert (path, size) == ("images/a.png", len(b"an image"))


@pytest.mark.parametrize(
    ("watch_images", "touched", "edited"), [("stat", True, True), ("content", False, True), ("never", False, False)]
)
def test_images_count_as_the_study_says(root: Path, watch_images: WatchImages, touched: bool, edited: bool) -> None:
    image, before = root / "images" / "a.png", raw_data(root, watch_images).state("7")
    os.utime(image, (1, 1))
    assert (raw_data(root, watch_images).state("7") != before) == touched
    image.write_bytes(b"another one")
    assert (raw_data(root, watch_images).state("7") != before) == edited


def test_the_file_counts_by_size_and_time(root: Path) -> None:
    before = raw_data(root, "never").state("7")
    assert raw_data(root, "never").state("7") == before
    os.utime(root / "user_7.jsonl", (1, 1))
    assert raw_data(root, "never").state("7") != before
