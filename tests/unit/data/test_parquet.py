"""Tables: Parquet files and datasets saved to disk, their columns, and images inside them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.calls import PREPARE
from tests.support.datasets import LAYOUTS, SIZE, TARGETS, box, draw_screens, point, table_of
from tests.support.parquet import (
    COLUMNS,
    LAYOUT,
    Write,
    as_parquet,
    as_saved,
    as_shards,
    first_sample,
    png,
    prepared,
    reader_of,
    recipe,
    row,
    rows,
)
from usertune.core.errors import UserError
from usertune.data import column_files
from usertune.data.image_store import stored_path
from usertune.data.images import BadImageError, load_image
from usertune.data.prepare import check_user, is_prepared, prepare_user
from usertune.data.reader import BadSampleError, RawSample
from usertune.data.recipe import PrepareRecipe
from usertune.data.samples import read_user
from usertune.exchange.look import look_at


@LAYOUT
def test_rows_are_read_user_by_user_from_every_layout(write: Write, tmp_path: Path) -> None:
    write(tmp_path, pa.Table.from_pylist(rows()))
    reader = reader_of(tmp_path)
    assert reader.users() == ["1", "2"]
    for user in ("1", "2"):
        found = list(reader.read(user))
        assert len(found) == reader.count(user) == len(TARGETS)
        boxes = [sample.truth.box for _, sample in found if isinstance(sample, RawSample) and sample.truth]
        assert boxes == [box(number) for number in range(len(TARGETS))]
        assert not reader.images(user)


@LAYOUT
def test_embedded_images_are_copied_next_to_the_samples(write: Write, tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    write(root, pa.Table.from_pylist(rows()))
    manifest, samples = prepared(root, out)
    for number, sample in enumerate(samples):
        assert sample["target"]["point"] == pytest.approx(point(number))
        (image,) = sample["images"]
        assert image["path"] == stored_path(png(number))
        assert (out / image["path"]).read_bytes() == png(number)
        assert load_image(root, image).size == SIZE
    assert manifest["stored_images"] == {stored_path(png(number)): len(png(number)) for number in range(3)}
    # Results can be moved.
    assert str(tmp_path) not in (out / "user_1.jsonl").read_text()
    moved = out.rename(tmp_path / "moved")
    (image,) = read_user(moved / "user_1.manifest.json")[1][0]["images"]
    assert load_image(root, image).size == SIZE


def test_preparing_again_writes_no_image_again_and_repairs_damaged_ones(tmp_path: Path) -> None:
    as_parquet(tmp_path, pa.Table.from_pylist(rows()))
    _, samples = prepared(tmp_path, tmp_path / "out")
    first, second, _ = (tmp_path / "out" / sample["images"][0]["path"] for sample in samples)
    os.utime(first, (1, 1))
    second.write_bytes(b"x" * second.stat().st_size)
    with pytest.raises(BadImageError, match="edited or damaged; delete this copy and run snakemake again"):
        load_image(tmp_path, samples[1]["images"][0])
    # The other user has the same screenshots.
    _, samples = prepared(tmp_path, tmp_path / "out", "2")
    assert first.stat().st_mtime == 1
    assert second.read_bytes() == png(1)
    assert len([path for path in (tmp_path / "out/images").rglob("*") if path.is_file()]) == 3


def test_a_user_without_one_of_the_copies_is_not_prepared(tmp_path: Path) -> None:
    as_parquet(tmp_path, pa.Table.from_pylist(rows()))
    samples, manifest = tmp_path / "out/user_1.jsonl", tmp_path / "out/user_1.manifest.json"
    prepare_user(recipe(), tmp_path, "1", samples, manifest, "state")
    assert is_prepared(recipe(), "1", samples, manifest, "state")
    (tmp_path / "out" / stored_path(png(1))).unlink()
    assert not is_prepared(recipe(), "1", samples, manifest, "state")


def test_checking_alone_writes_nothing(tmp_path: Path) -> None:
    as_parquet(tmp_path, pa.Table.from_pylist(rows()))
    before = set(tmp_path.rglob("*"))
    assert len(check_user(recipe(), tmp_path, "1").samples) == 3
    assert set(tmp_path.rglob("*")) == before


@LAYOUT
def test_a_truncated_embedded_image_is_a_bad_sample_with_file_and_row(write: Write, tmp_path: Path) -> None:
    damaged = rows(("1",))
    damaged[1]["image"] = {"bytes": png()[:-60], "path": None}
    damaged[2]["image"] = {"bytes": b"no image", "path": None}
    write(tmp_path, pa.Table.from_pylist(damaged))
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, tmp_path / "out")
    first, second, _advice = str(caught.value).splitlines()
    name = {as_parquet: "train.parquet:2", as_shards: "train-00000-of-00002.parquet:2"}.get(
        write, "data-00000-of-00002.arrow:2"
    )
    assert first.startswith(f"{tmp_path}/{name}: image: the image inside the file cannot be decoded")
    assert ": image: inside the file is not an image in one of the formats" in second
    manifest, _ = prepared(tmp_path, tmp_path / "out", on_bad_sample="skip")
    assert (manifest["samples"], manifest["skipped"], len(manifest["stored_images"])) == (1, 2, 1)


@pytest.mark.parametrize("path", ["../x.png", "/etc/passwd", "a\nb", ""])
def test_a_path_next_to_bytes_is_ignored_and_a_hostile_path_without_bytes_is_refused(tmp_path: Path, path: str) -> None:
    samples = [row(image={"bytes": png(), "path": path}), row(image={"bytes": None, "path": path})]
    as_parquet(tmp_path, pa.Table.from_pylist(samples))
    assert not reader_of(tmp_path).images("1")
    manifest, _ = prepared(tmp_path, tmp_path / "out", on_bad_sample="skip")
    assert [(item["line"], item["field"]) for item in manifest["skipped_samples"]] == [(2, "image")]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {file.parent.name for file in files if file.suffix == ".png"} == {hashlib.sha256(png()).hexdigest()[:2]}


@pytest.mark.parametrize(
    "images",
    [
        [png(1), png(2)],
        [{"bytes": png(1), "path": None}, {"bytes": png(2), "path": "x"}],
        [{"bytes": None, "path": "images/user_1/1.png"}, {"bytes": png(2), "path": None}],
        ["images/user_1/1.png", "images/user_1/2.png"],
    ],
    ids=["bytes", "structs", "paths and bytes", "paths"],
)
@pytest.mark.parametrize("write", [as_parquet, as_saved])
def test_a_sample_has_several_images(write: Write, images: Any, tmp_path: Path) -> None:
    draw_screens(tmp_path / "images", "1")
    write(tmp_path, pa.Table.from_pylist([row(image=images), row(1, image=[]), row(2, image=None)]))
    _, samples = prepared(tmp_path, tmp_path / "out", frame="relative_1000")
    assert [len(sample["images"]) for sample in samples] == [2, 0, 0]
    for image in samples[0]["images"]:
        assert load_image(tmp_path, image).size == SIZE
    watched = {image["path"] for image in samples[0]["images"] if not image.get("stored")}
    assert reader_of(tmp_path).images("1") == watched


def test_points_answers_and_messages_are_read(tmp_path: Path) -> None:
    asked = {"instruction": "q", "image": "image"}
    sample = first_sample(tmp_path, [{"q": "a", "image": "x.png", "p": [1, 2]}], columns={**asked, "point": "p"})
    assert isinstance(sample, RawSample)
    assert sample.truth is not None
    assert (sample.truth.point, sample.image_paths) == ((1, 2), ["x.png"])
    named = {"q": "a", "image": None, "a": "[500, 250]", "n": 7, "e": "e1", "s": 3}
    columns = {**asked, "answer": "a", "id": "n", "episode": "e", "step": "s"}
    sample = first_sample(tmp_path, [named], columns=columns)
    assert isinstance(sample, RawSample)
    assert (sample.id, sample.episode, sample.step) == ("7", "e1", 3)
    assert [part.get("text") for turn in sample.messages for part in turn["content"]] == ["a", "[500, 250]"]
    turns = [{"role": "user", "content": "<image> where?"}, {"role": "assistant", "content": "[1, 2]"}]
    sample = first_sample(
        tmp_path, [{"chat": turns, "image": ["x.png"]}], columns={"messages": "chat", "image": "image"}
    )
    assert isinstance(sample, RawSample)
    assert (len(sample.messages), sample.image_paths, sample.turn_field) == (2, ["x.png"], "chat[{}].content")


def test_the_first_of_several_answers_is_trained_on_and_all_are_accepted(tmp_path: Path) -> None:
    asked = {"instruction": "q", "image": "image", "answer": "answers"}
    answers = [["42", "forty-two", "42"], ["yes"], [], ["a", " "], ["a", None]]
    table = [{"q": "how many?", "image": png(), "answers": several} for several in answers]
    as_parquet(tmp_path, table_of(table))
    manifest, samples = prepared(
        tmp_path, tmp_path, "all", options={"columns": asked}, task="text", on_bad_sample="skip"
    )
    assert [sample["target"] for sample in samples] == [{"answers": ["42", "forty-two"]}, {"answers": ["yes"]}]
    assert samples[0]["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": "42"}]}
    assert [(one["field"], one["problem"]) for one in manifest["skipped_samples"]] == [
        ("answers", "the list of answers is empty"),
        ("answers[1]", "the text is empty"),
        ("answers[1]", "a text is needed, found NoneType"),
    ]


def test_parts_of_messages_take_the_images_in_order(tmp_path: Path) -> None:
    question = [{"type": "image", "text": None}, {"type": "text", "text": "where?"}]
    turns = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": [{"type": "text", "text": "here"}]},
    ]
    columns = {"messages": "messages", "image": "images"}
    sample = first_sample(tmp_path, [{"messages": turns, "images": [png()]}], columns=columns)
    assert isinstance(sample, RawSample)
    assert sample.image_paths == list(sample.embedded) == [stored_path(png())]
    sample = first_sample(tmp_path, [{"messages": turns, "images": [png(), png(1)]}], columns=columns)
    assert isinstance(sample, BadSampleError)
    assert (sample.field, str(sample)) == ("images", "2 images, but the turns have 1 parts for them")


def test_caches_of_datasets_are_not_read(tmp_path: Path) -> None:
    as_saved(tmp_path, pa.Table.from_pylist(rows(("1",))))
    (tmp_path / "cache-0123.arrow").write_bytes(b"anything")
    assert reader_of(tmp_path).users() == ["1"]


@pytest.mark.parametrize("write", [as_parquet, as_saved])
@pytest.mark.parametrize("embedded", [True, False])
def test_planning_reads_no_bytes_of_images_and_each_file_once(
    write: Write, embedded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.Table.from_pylist(rows(tuple(map(str, range(1, 20)))))
    if not embedded:
        paths = pa.array([{"bytes": None, "path": "x"}] * len(table), table.schema.field("image").type)
        table = table.drop_columns("image").append_column("image", paths)
    write(tmp_path, table)
    asked: list[tuple[set[str], bool]] = []
    original = column_files.ColumnFile.batches

    def noted(self: Any, columns: Any, group: int | None = None, without_bytes: bool = False) -> Any:
        asked.append((set(columns), without_bytes))
        for batch in original(self, columns, group, without_bytes):
            if write is as_parquet and not embedded:
                assert [field.name for field in batch.columns.schema.field("image").type] == ["path"]
            yield batch

    monkeypatch.setattr(column_files.ColumnFile, "batches", noted)
    reader = reader_of(tmp_path)
    for user in reader.users():
        assert reader.images(user) == (set() if embedded else {"x"})
        reader.sources(user)
        assert reader.count(user) == 3
    columns = {"person"} if embedded and write is as_parquet else {"person", "image"}
    assert asked == [(columns, True)] * len(reader.sources("1"))


def test_groups_without_rows_of_the_user_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.Table.from_pylist([row(person=str(number // 2)) for number in range(20)])
    as_parquet(tmp_path, table)
    reader = reader_of(tmp_path)
    reader.users()
    groups: list[int | None] = []
    original = column_files.ColumnFile.batches
    monkeypatch.setattr(
        column_files.ColumnFile, "batches", lambda self, c, group: groups.append(group) or original(self, c, group)
    )
    assert len(list(reader.read("4"))) == 2
    assert groups == [4]


@pytest.mark.parametrize("write", [as_parquet, as_saved])
def test_import_finds_columns_users_and_embedded_images(write: Write, tmp_path: Path) -> None:
    samples = [row(number % 3, user=f"u{number % 2}", id=f"s{number}") for number in range(12)]
    write(tmp_path, pa.Table.from_pylist(samples))
    look = look_at(tmp_path)
    assert look.format == "parquet"
    assert look.found.options["columns"] == {**COLUMNS, "id": "id"}
    assert (look.found.options["user"], look.users, look.samples) == ("user", ("u0", "u1"), 12)
    assert look.trial.good == look.trial.looked_at == 12


def test_tables_with_other_columns_are_not_recognised(tmp_path: Path) -> None:
    as_parquet(tmp_path, pa.table({"a": [1], "b": ["x"]}))
    with pytest.raises(UserError, match="no format fits"):
        look_at(tmp_path)


def test_prepared_samples_of_files_say_nothing_of_a_store(tmp_path: Path) -> None:
    layout = LAYOUTS["parquet"]
    layout.write(tmp_path)
    settings = PrepareRecipe.model_validate({**PREPARE.as_json(), **layout.dataset})
    user = layout.users[0]
    manifest = prepare_user(settings, tmp_path, user, tmp_path / f"user_{user}.jsonl", tmp_path / "m.json")
    assert "stored_images" not in manifest
    written = json.loads((tmp_path / f"user_{user}.jsonl").read_text().splitlines()[0])
    assert set(written["images"][0]) == {"path", "sha256", "width", "height"}
