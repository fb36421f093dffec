"""The state of the raw data, as planning sees it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from usertune.checks.sources import RawData
from usertune.study.load import study_from_config


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Raw data of user 7, with one image."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"an image")
    content = [{"type": "image", "image": "images/a.png"}]
    (tmp_path / "user_7.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": content}]}))
    return tmp_path


def raw_data(root: Path, watch_images: str = "stat") -> RawData:
    study = {
        "name": "small",
        "dataset": {"root": str(root), "watch_images": watch_images},
        "users": {"test": 7},
        "base_model": {"path": "base"},
        "experiments": {"vanilla": {"mode": "vanilla"}},
    }
    return RawData(study_from_config(study))


def test_image_stats_follow_the_files(root: Path) -> None:
    stat = (root / "images" / "a.png").stat()
    assert raw_data(root).image_stats("7") == [("images/a.png", stat.st_size, stat.st_mtime_ns)]
    (root / "images" / "a.png").unlink()
    assert raw_data(root).image_stats("7") == [("images/a.png", -1, -1)]


def test_a_link_that_leads_nowhere_hides_no_other_image(root: Path) -> None:
    (root / "images" / "broken.png").symlink_to("nowhere")
    ((path, size, _),) = raw_data(root).image_stats("7")
    assert (path, size) == ("images/a.png", len(b"an image"))


@pytest.mark.parametrize(
    ("watch_images", "touched", "edited"), [("stat", True, True), ("content", False, True), ("never", False, False)]
)
def test_images_count_as_the_study_says(root: Path, watch_images: str, touched: bool, edited: bool) -> None:
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
