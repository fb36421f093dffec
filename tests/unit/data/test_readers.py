"""What holds for every reader: good data are read, and bad data are reported by file, number and field."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import PREPARE
from tests.support.datasets import LAYOUTS, TARGETS, Layout, point
from usertune.core.errors import UserError
from usertune.core.users import parse_users
from usertune.data.prepare import prepare_user
from usertune.data.reader import BadSampleError, Reader
from usertune.data.readers.catalogue import READERS, get_reader
from usertune.data.recipe import PrepareRecipe
from usertune.data.samples import Sample, read_user

PARAMETERS = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
IN_JSON = {name: layout for name, layout in LAYOUTS.items() if layout.format != "parquet"}
JSON_ALONE = pytest.mark.parametrize("layout", IN_JSON.values(), ids=IN_JSON)
# Formats in which a key names the user, not the name of a file.
BY_KEY = [name for name, layout in IN_JSON.items() if name != "messages" and layout.options.get("user") != "file"]
LISTS = pytest.mark.parametrize(
    "layout", [pytest.param(layout, id=name) for name, layout in LAYOUTS.items() if layout.file.endswith(".json")]
)
# Chinese, a letter beyond 16 bits, and 8-bit letters.
HOSTILE_NAMES = ("/etc/passwd", "../x.png", "a\nb.png", "a\0b", "\x1b[2J.png", "\ud800.png", "", "x" * 3000)
NAMES = ("微信.png", "\U0001f600.png", "Größe é.png")


def reader_of(layout: Layout, root: Path) -> Reader:
    return get_reader(layout.format, root, layout.options)


def prepared(layout: Layout, root: Path, user: str | None = None, **recipe: Any) -> tuple[dict[str, Any], list[Sample]]:
    """Prepare a user, the first by default."""
    user = user or layout.users[0]
    settings = PrepareRecipe.model_validate({**PREPARE.as_json(), **layout.dataset, **recipe})
    manifest = root / "out" / f"user_{user}.manifest.json"
    prepare_user(settings, root, user, root / "out" / f"user_{user}.jsonl", manifest)
    return read_user(manifest)


def rewrite(layout: Layout, root: Path, change: Callable[[list[Any]], list[Any] | None]) -> Path:
    """Write the dataset with the samples of the first user changed, in place or as a new list; return its file."""
    original = layout.samples

    def samples(user: str, images: Any) -> list[Any]:
        found = original(user, images)
        return (change(found) or found) if user == "1" else found

    replace(layout, samples=samples).write(root)
    return layout.path(root)


def with_image(sample: Any, name: str) -> Any:
    """Return a copy of a raw sample with another image, and without id."""
    new = copy.deepcopy(sample)
    for key in ("id", "episode_id", "step"):
        new.pop(key, None)
    for key in ("img_filename", "file_name", "image", "screenshot"):
        if key in new:
            new[key] = name.removesuffix(".png") if "action_type_id" in new else name
            return new
    if "screenshots" in new:
        new["screenshots"] = [name, name]
        return new
    if "images" in new:
        new["images"] = [name]
        return new
    new["messages"][0]["content"][0]["image"] = name
    return new


def test_every_reader_has_a_layout() -> None:
    # FingerTip is a tree of folders and has tests of its own.
    assert {layout.format for layout in LAYOUTS.values()} == set(READERS) - {"fingertip"}


@PARAMETERS
def test_the_samples_of_all_users_are_read(layout: Layout, tmp_path: Path) -> None:
    reader = reader_of(layout, layout.write(tmp_path))
    assert sorted(reader.users()) == sorted(layout.users)
    for user in layout.users:
        assert parse_users(user) == [user]
        assert reader.count(user) == len(TARGETS)
        assert len(reader.sources(user)) >= 1
        manifest, samples = prepared(layout, tmp_path, user)
        assert (manifest["samples"], manifest["skipped"]) == (len(TARGETS), 0)
        assert {image["path"] for sample in samples for image in sample["images"]} == set(reader.images(user))
        for number, sample in enumerate(samples):
            assert sample["target"]["point"] == pytest.approx(point(number), abs=0.06)
    assert reader.count("nobody") == 0
    assert not reader.sources("nobody")
    assert not reader.images("nobody")


@PARAMETERS
def test_the_methods_for_planning_agree_with_what_is_read(layout: Layout, tmp_path: Path) -> None:
    reader = reader_of(layout, layout.write(tmp_path))
    for user in layout.users:
        found = list(reader.read(user))
        assert len(found) == reader.count(user)
        for location, sample in found:
            assert location.file in reader.sources(user)
            assert not isinstance(sample, BadSampleError)
            assert set(sample.image_paths) <= set(reader.images(user))


@PARAMETERS
def test_an_empty_file_and_an_empty_folder_are_reported(layout: Layout, tmp_path: Path) -> None:
    layout.write(tmp_path)
    for user in ("1", "2"):
        layout.path(tmp_path, user).write_bytes(b"")
    with pytest.raises(UserError) as caught:
        prepared(layout, tmp_path)
    assert str(tmp_path) in str(caught.value)
    for user in ("1", "2"):
        layout.path(tmp_path, user).unlink(missing_ok=True)
    with pytest.raises(UserError, match="has no raw data"):
        prepared(layout, tmp_path)


@PARAMETERS
def test_a_truncated_image_is_a_bad_sample(layout: Layout, tmp_path: Path) -> None:
    layout.write(tmp_path)
    image = tmp_path / layout.images / "user_1" / "2.png"
    image.write_bytes(image.read_bytes()[:-30])
    with pytest.raises(UserError, match=rf"{layout.path(tmp_path)}:2: image: .*cannot be decoded"):
        prepared(layout, tmp_path)
    manifest, _ = prepared(layout, tmp_path, on_bad_sample="skip")
    assert (manifest["samples"], manifest["skipped"]) == (2, 1)


@PARAMETERS
def test_an_id_that_occurs_twice_is_reported(layout: Layout, tmp_path: Path) -> None:
    def repeat(samples: list[Any]) -> None:
        for sample in samples[:2]:
            sample["id"] = "same"

    file = rewrite(layout, tmp_path, repeat)
    with pytest.raises(UserError, match=rf"{file}:2: id: 'same(-0)?' was already used in line 1"):
        prepared(layout, tmp_path)


@PARAMETERS
def test_a_user_who_is_not_there_is_reported_with_those_who_are(layout: Layout, tmp_path: Path) -> None:
    layout.write(tmp_path)
    with pytest.raises(UserError, match=r"user 99 of the study has no raw data .*found 2 users there: "):
        prepared(layout, tmp_path, "99")


@pytest.mark.parametrize("name", BY_KEY)
def test_samples_without_a_usable_user_are_reported_for_every_user(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    key = layout.options.get("user", "user")
    values = [None, "", [1], 1.5, True, "x" * 2000, "\ud800"]

    def spoil(samples: list[Any]) -> list[Any]:
        bad = [{**samples[1], key: value} for value in values]
        del bad[0][key]
        return [samples[0], *bad]

    file = rewrite(layout, tmp_path, spoil)
    for user in layout.users:
        with pytest.raises(UserError) as caught:
            prepared(layout, tmp_path, user)
        for line in range(2, 2 + len(values)):
            assert f"{file}:{line}: {key}: " in str(caught.value)
        manifest, _ = prepared(layout, tmp_path, user, on_bad_sample="skip")
        assert manifest["skipped"] == len(values)
    replace(layout, samples=lambda *_: [{key: ""}]).write(tmp_path)
    with pytest.raises(UserError, match=rf":1: {key}: "):
        reader_of(layout, tmp_path).users()


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.format != "swift"])
def test_a_wrong_frame_is_reported(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    wrong = {"pixels": "relative_1", "relative_1": "relative_1000", "relative_1000": "relative_1"}[layout.frame]
    layout.write(tmp_path)
    for on_bad_sample in ("error", "skip"):
        with pytest.raises(UserError, match=f"are not in dataset.frame: {wrong}: .*set dataset.frame"):
            prepared(layout, tmp_path, frame=wrong, on_bad_sample=on_bad_sample)


@PARAMETERS
def test_hostile_image_names_are_bad_samples(layout: Layout, tmp_path: Path) -> None:
    def spoil(samples: list[Any]) -> list[Any]:
        return [samples[0], *(with_image(samples[1], name) for name in HOSTILE_NAMES)]

    file = rewrite(layout, tmp_path, spoil)
    reader = reader_of(layout, tmp_path)
    assert all(path.startswith(layout.images) for path in reader.images(layout.users[0]))
    with pytest.raises(UserError) as caught:
        prepared(layout, tmp_path)
    *lines, _advice = str(caught.value).splitlines()
    assert len(lines) == len(HOSTILE_NAMES)
    for number, line in enumerate(lines, start=2):
        assert line.startswith(f"{file}:{number}: ")
        assert line.isprintable()
    manifest, _ = prepared(layout, tmp_path, on_bad_sample="skip")
    assert (manifest["samples"], manifest["skipped"]) == (1, len(HOSTILE_NAMES))


@PARAMETERS
def test_names_beyond_ascii_are_read(layout: Layout, tmp_path: Path) -> None:
    prefix = "user_1" if "images" in layout.options else f"{layout.images}/user_1"
    rewrite(layout, tmp_path, lambda samples: [with_image(samples[0], f"{prefix}/{name}") for name in NAMES])
    folder = tmp_path / layout.images / "user_1"
    for name in NAMES:
        (folder / name).symlink_to("1.png")
    _, samples = prepared(layout, tmp_path)
    paths = [image["path"] for sample in samples for image in sample["images"]]
    assert paths == [f"{layout.images}/user_1/{name}" for name in NAMES]
    assert set(paths) == set(reader_of(layout, tmp_path).images(layout.users[0]))


@PARAMETERS
def test_files_and_images_behind_symbolic_links_are_read(layout: Layout, tmp_path: Path) -> None:
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "root"
    root.mkdir()
    layout.write(elsewhere)
    for path in elsewhere.iterdir():
        (root / path.name).symlink_to(path)
    manifest, _ = prepared(layout, root)
    assert manifest["samples"] == len(TARGETS)
    (root / layout.images).unlink()
    (root / layout.images).symlink_to("nowhere")
    with pytest.raises(UserError, match="does not exist below"):
        prepared(layout, root)


@PARAMETERS
def test_a_dataset_on_a_disk_that_cannot_be_written_is_read(layout: Layout, tmp_path: Path) -> None:
    root = layout.write(tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    settings = PrepareRecipe.model_validate({**PREPARE.as_json(), **layout.dataset})
    user = layout.users[0]
    manifest = prepare_user(settings, root, user, tmp_path / f"user_{user}.jsonl", tmp_path / "manifest.json")
    assert manifest["samples"] == len(TARGETS)
    # Root may write everywhere, so what counts is that nothing was written.
    assert {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))} == before
    for path in before:
        path.chmod(0o755)


@PARAMETERS
def test_a_file_that_cannot_be_a_sample_is_not_opened(layout: Layout, tmp_path: Path) -> None:
    layout.write(tmp_path)
    path = layout.path(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="has no raw data"):
        prepared(layout, tmp_path)


@JSON_ALONE
def test_lines_that_are_no_samples_are_bad_samples(layout: Layout, tmp_path: Path) -> None:
    layout.write(tmp_path)
    path = layout.path(tmp_path)
    if path.suffix != ".jsonl":
        samples = json.loads(path.read_text())
        path.write_text(json.dumps([samples[0], 5, None, "x", *samples[1:]]))
        bad = 3
    else:
        lines = path.read_bytes().splitlines()
        path.write_bytes(b"\n".join([lines[0], b"{", b"\xff", b"[]", b"[" * 100_000, *lines[1:]]))
        bad = 4
    with pytest.raises(UserError, match=rf"{path}:2: line: "):
        prepared(layout, tmp_path)
    manifest, _ = prepared(layout, tmp_path, on_bad_sample="skip")
    assert (manifest["samples"], manifest["skipped"]) == (len(TARGETS), bad)


@LISTS
def test_a_list_that_is_cut_off_is_reported_with_its_place(layout: Layout, tmp_path: Path) -> None:
    layout.write(tmp_path)
    path = layout.path(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"{path}: not valid JSON in line \d+ \(byte \d+, after sample \d\)"):
        prepared(layout, tmp_path, on_bad_sample="skip")


@JSON_ALONE
def test_utf_16_and_utf_32_are_reported_by_name(layout: Layout, tmp_path: Path) -> None:
    layout.write(tmp_path)
    path = layout.path(tmp_path)
    text = path.read_text()
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(UserError, match=rf"{path}: the file is {encoding[:6].upper()}"):
            prepared(layout, tmp_path)


@PARAMETERS
def test_a_reader_notices_files_that_change_after_planning(layout: Layout, tmp_path: Path) -> None:
    reader = reader_of(layout, layout.write(tmp_path))
    user = layout.users[0]
    assert reader.count(user) == len(TARGETS)
    rewrite(layout, tmp_path, lambda samples: samples[:1])
    os.utime(layout.path(tmp_path), ns=(1, 1))
    assert reader.count(user) == len(list(reader.read(user))) == 1
