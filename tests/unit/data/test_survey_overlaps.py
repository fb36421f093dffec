"""What the splits have in common, as the survey shows it: from prepared samples and from raw images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from usertune.data import survey_overlaps
from usertune.data.leakage import Seen, in_words
from usertune.data.perceptual_hash import HashStore
from usertune.data.survey import UserCounts
from usertune.data.survey_overlaps import rows_of_prepared, rows_of_raw

NEAR = ("0" * 64, "0" * 63 + "1")


def user(name: str, split: str, *images: str, pair: str = "") -> UserCounts:
    samples = [
        Seen(name, f"{number}", (image,), (image,), pair or f"{name} {number}") for number, image in enumerate(images)
    ]
    return UserCounts(name, split, seen=samples)


def raw_user(name: str, split: str, *paths: str) -> UserCounts:
    samples = [Seen(name, path, (), (path,), f"{name} {number}") for number, path in enumerate(paths)]
    return UserCounts(name, split, seen=samples)


def test_prepared_samples_are_compared_by_stored_hashes_and_else_by_bytes(tmp_path: Path) -> None:
    store = HashStore(tmp_path)
    store.write("1", {"a": NEAR[0], "b": None})
    store.write("2", {"c": NEAR[1], "a": NEAR[0]})
    users = [user("1", "train", "a", "b", pair="same"), user("2", "test", "c", "a", "d", pair="same")]
    (row,), without = rows_of_prepared(users, store)
    assert without == 1, "d has no hash"
    assert (row["earlier"], row["later"], row["samples"], row["affected"]) == ("train", "test", 3, 2)
    assert (row["identical_screenshots"], row["near_identical_screenshots"], row["identical_pairs"]) == (1, 1, 1)
    assert "examples" not in row
    assert in_words(row) == (
        "test and train: 1 identical and 1 nearly identical screenshots, 1 identical questions and answers; "
        "2 of 3 test samples are affected"
    )


def test_a_hash_that_another_user_stored_counts(tmp_path: Path) -> None:
    HashStore(tmp_path).write("1", {"a": NEAR[0]})
    _, without = rows_of_prepared([user("1", "train", "a"), user("2", "test", "a")], HashStore(tmp_path))
    assert without == 0


def test_raw_images_are_compared_by_bytes_and_only_those_of_one_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {"a": b"same", "b": b"alone in size", "c": b"also alone", "d": b"same", "e": b"othr", "f": b"f" * 30}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    read: list[str] = []
    digest = survey_overlaps.digest_file

    def noted(path: Path) -> str:
        read.append(path.name)
        return digest(path)

    monkeypatch.setattr(survey_overlaps, "digest_file", noted)
    users = [
        raw_user("1", "train", "a", "b", "f"),
        raw_user("2", "validation", "c"),
        raw_user("3", "test", "d", "d", "e", "f"),
    ]
    rows = rows_of_raw(users, tmp_path)
    assert [(row["earlier"], row["later"], row["identical_screenshots"], row["affected"]) for row in rows] == [
        ("train", "validation", 0, 0),
        ("train", "test", 2, 3),
        ("validation", "test", 0, 0),
    ]
    assert sorted(read) == ["a", "d", "e", "f"]
    for row in rows:
        assert row["near_identical_screenshots"] is row["identical_pairs"] is row["samples_repeated"] is None
    assert in_words(rows[1]) == "test and train: 2 identical screenshots; 3 of 4 test samples are affected"


def test_what_is_no_readable_file_inside_the_data_is_left_out(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "outside").write_text("secret")
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    (root / "loop").symlink_to("loop")
    paths = ("missing", "folder", "pipe", "loop", "../outside", "/etc/passwd", "a\0b", "x" * 300)
    (row,) = rows_of_raw([raw_user("1", "train", *paths), raw_user("2", "test", *paths)], root)
    assert (row["samples"], row["screenshots"], row["affected"]) == (8, 0, 0)


def test_a_file_that_cannot_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(survey_overlaps, "digest_file", refuse)
    (row,) = rows_of_raw([raw_user("1", "train", "a"), raw_user("2", "test", "b")], tmp_path)
    assert (row["screenshots"], row["affected"]) == (0, 0)


def test_one_split_alone_has_nothing_to_compare(tmp_path: Path) -> None:
    assert rows_of_raw([raw_user("1", "test", "a")], tmp_path) == []
    assert rows_of_prepared([user("1", "test", "a")], HashStore(tmp_path)) == ([], 1)
