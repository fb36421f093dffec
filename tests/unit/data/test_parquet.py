"""Tables: Parquet files and datasets saved to disk, their columns, and images inside them."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.calls import PREPARE
from tests.support.datasets import LAYOUTS, SIZE, TARGETS, box, draw_screens, point, save_to_disk, table_of
from usertune.core.errors import UserError
from usertune.data import column_files
from usertune.data.image_store import stored_path
from usertune.data.images import BadImageError, load_image
from usertune.data.prepare import check_user, is_prepared, prepare_user
from usertune.data.reader import BadSampleError, RawSample, Reader
from usertune.data.readers.catalogue import get_reader
from usertune.data.recipe import PrepareRecipe
from usertune.data.samples import read_user
from usertune.exchange.look import look_at

COLUMNS = {"instruction": "instruction", "image": "image", "box": "bbox"}
OPTIONS = {"columns": COLUMNS, "box": "xyxy", "user": "person"}
Write = Callable[[Path, pa.Table], None]


def png(shade: int = 0) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", SIZE, (shade, 9, 99)).save(out, "PNG")
    return out.getvalue()


def row(number: int = 0, **other: Any) -> dict[str, Any]:
    image = {"bytes": png(number), "path": f"{number}.png"}
    return {"image": image, "instruction": "open it", "bbox": list(map(float, box(number))), "person": "1", **other}


def rows(users: tuple[str, ...] = ("1", "2")) -> list[dict[str, Any]]:
    """Return rows in which the users take turns."""
    return [row(number, person=user) for number in range(len(TARGETS)) for user in users]


def as_parquet(root: Path, table: pa.Table) -> None:
    pq.write_table(table, root / "train.parquet", row_group_size=2)


def as_shards(root: Path, table: pa.Table) -> None:
    pq.write_table(table.slice(0, 4), root / "train-00000-of-00002.parquet")
    pq.write_table(table.slice(4), root / "train-00001-of-00002.parquet")


def as_saved(root: Path, table: pa.Table) -> None:
    save_to_disk(root, table, shards=2)


LAYOUT = pytest.mark.parametrize("write", [as_parquet, as_shards, as_saved])


def reader_of(root: Path, options: dict[str, Any] | None = None) -> Reader:
    return get_reader("parquet", root, options or OPTIONS)


def recipe(options: dict[str, Any] | None = None, **other: Any) -> PrepareRecipe:
    dataset = {"format": "parquet", "frame": "pixels", "options": options or OPTIONS}
    return PrepareRecipe.model_validate({**PREPARE.as_json(), **dataset, **other})


def prepared(root: Path, out: Path, user: str = "1", **other: Any) -> tuple[dict[str, Any], list[Any]]:
    manifest = out / f"user_{user}.manifest.json"
    prepare_user(recipe(**other), root, user, out / f"user_{user}.jsonl", manifest)
    return read_user(manifest)


def first_sample(root: Path, samples: list[dict[str, Any]], **options: Any) -> RawSample | BadSampleError:
    as_parquet(root, table_of(samples))
    return next(reader_of(root, options).read("all"))[1]


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


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "columns: Field required"),
        ({"columns": {"instruction": "a"}}, "name one of box, point, answer, messages; found none"),
        ({"columns": {"instruction": "a", "box": "b", "point": "c"}, "box": "xyxy"}, "found box and point"),
        ({"columns": {"box": "b"}, "box": "xyxy"}, "name either instruction or messages"),
        ({"columns": {"instruction": "a", "box": "b"}}, "box: say whether columns.box is xywh"),
        ({"columns": {"instruction": "a", "point": "b"}, "box": "xywh"}, "leave it out without columns.box"),
        ({"columns": {"instruction": "a", "points": "b"}}, "columns.points: Extra inputs are not permitted"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=f"dataset.options of the format parquet: .*{problem}"):
        get_reader("parquet", tmp_path, options)


@LAYOUT
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"columns": {**COLUMNS, "box": "boxes"}}, r"'boxes' \(dataset.options.columns.box\) is missing"),
        (
            {"user": "who"},
            r"'who' \(dataset.options.user\) is missing; the columns there: 'image', 'instruction', 'bbox'",
        ),
        ({"about": ["app"]}, r"'app' \(dataset.options.about\) is missing"),
        ({"columns": {**COLUMNS, "box": "instruction"}}, r"columns.box\) holds 'string'; numbers is needed"),
        ({"columns": {**COLUMNS, "image": "bbox"}}, r"columns.image\) holds 'list<.*'; text or bytes or image"),
    ],
)
def test_a_column_that_is_missing_or_holds_something_else_is_named(
    write: Write, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    write(tmp_path, pa.Table.from_pylist(rows()))
    with pytest.raises(UserError, match=problem):
        reader_of(tmp_path, {**OPTIONS, **changes}).users()


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows())
    as_saved(tmp_path, table.append_column("person", table["person"]))
    with pytest.raises(UserError, match=r"'person' .* occurs several times"):
        reader_of(tmp_path).users()


@LAYOUT
def test_an_empty_table_has_no_users(write: Write, tmp_path: Path) -> None:
    write(tmp_path, pa.Table.from_pylist(rows()).slice(0, 0))
    reader = reader_of(tmp_path)
    assert reader.users() == []
    with pytest.raises(UserError, match="user 1 of the study has no raw data"):
        check_user(recipe(), tmp_path, "1")


def test_users_with_unsafe_names_get_ids_and_missing_ones_are_reported(tmp_path: Path) -> None:
    names = ["Google Chrome", "../x", "微信", "a\nb", None, ""]
    as_parquet(tmp_path, pa.Table.from_pylist([row(person=name) for name in names]))
    reader = reader_of(tmp_path)
    users = reader.users()
    assert len(users) == 4
    for user in users:
        found = [sample for _, sample in reader.read(user)]
        assert [type(sample) for sample in found] == [RawSample, BadSampleError, BadSampleError]
        assert isinstance(found[0], RawSample)
        assert found[0].about["person"] in names


def test_missing_numbers_and_names_of_pandas_are_missing_values(tmp_path: Path) -> None:
    samples = [row(person=1.0, score=float("nan")), row(1, person=float("nan"), score=2.5)]
    as_parquet(tmp_path, pa.Table.from_pylist(samples))
    found = [sample for _, sample in reader_of(tmp_path, {**OPTIONS, "about": ["score"]}).read("1")]
    assert isinstance(found[0], RawSample)
    assert "score" not in found[0].about
    assert isinstance(found[1], BadSampleError)
    assert found[1].field == "person"


def test_an_id_that_occurs_twice_is_reported_with_both_rows(tmp_path: Path) -> None:
    as_saved(tmp_path, pa.Table.from_pylist([row(number, name="same") for number in range(2)]))
    options = {**OPTIONS, "columns": {**COLUMNS, "id": "name"}}
    with pytest.raises(UserError, match=r"data-00001-of-00002.arrow:1: id: 'same' was already used in .*arrow:1"):
        check_user(recipe(options), tmp_path, "1")


@LAYOUT
@pytest.mark.parametrize("kept", [0, 5, 200, -1, -20])
def test_a_truncated_file_is_reported_by_name(write: Write, kept: int, tmp_path: Path) -> None:
    write(tmp_path, pa.Table.from_pylist(rows()))
    file = sorted(path for path in tmp_path.iterdir() if path.suffix in (".parquet", ".arrow"))[-1]
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=rf"{file}: the file (is damaged|ends too early)"):
        reader_of(tmp_path).users()
    options = {key: value for key, value in OPTIONS.items() if key != "user"}
    with pytest.raises(UserError, match=rf"{file}: the file"):
        list(reader_of(tmp_path, options).read("all"))


def test_a_stream_that_ends_between_two_batches_is_reported(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows())
    save_to_disk(tmp_path, table)
    file = tmp_path / "data-00000-of-00001.arrow"
    with pa.OSFile(str(tmp_path / "short"), "wb") as out, pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table.slice(0, 2), max_chunksize=2)
    length = (tmp_path / "short").stat().st_size - 8
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError, match="the file ends too early"):
        reader_of(tmp_path).users()


def test_a_folder_that_mixes_both_kinds_is_refused_and_files_can_be_named(tmp_path: Path) -> None:
    as_saved(tmp_path, pa.Table.from_pylist(rows(("1",))))
    as_parquet(tmp_path, pa.Table.from_pylist(rows(("2",))))
    with pytest.raises(UserError, match=r"holds a dataset saved to disk .* and Parquet files \(train.parquet"):
        reader_of(tmp_path).users()
    assert reader_of(tmp_path, {**OPTIONS, "files": "train.parquet"}).users() == ["2"]
    assert reader_of(tmp_path, {**OPTIONS, "files": "*.arrow"}).users() == ["1"]


def test_splits_are_folders_to_be_named(tmp_path: Path) -> None:
    for name in ("train", "test"):
        save_to_disk(tmp_path / name, pa.Table.from_pylist(rows((name,))))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(UserError, match="holds the splits 'test', 'train'; name one of these folders"):
        reader_of(tmp_path).users()
    assert reader_of(tmp_path, {**OPTIONS, "files": ["train", "test"]}).users() == ["test", "train"]
    assert look_at(tmp_path).found.options["files"] == ["test", "train"]


@pytest.mark.parametrize(
    "state",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"_data_files": 5}',
        '{"_data_files": [{"filename": 5}]}',
        '{"_data_files": [{"filename": "../x"}]}',
        '{"_data_files": [{"filename": "/etc/passwd"}]}',
        '{"_data_files": [{"filename": "none.arrow"}]}',
        '{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}',
    ],
    ids=range(9),
)
def test_a_damaged_or_hostile_state_is_refused(tmp_path: Path, state: str) -> None:
    as_saved(tmp_path, pa.Table.from_pylist(rows()))
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(UserError, match=r"state.json: "):
        reader_of(tmp_path).users()


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
