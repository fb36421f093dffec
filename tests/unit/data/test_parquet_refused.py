"""Tables and options that cannot be used are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.datasets import save_to_disk
from tests.support.parquet import COLUMNS, LAYOUT, OPTIONS, Write, as_parquet, as_saved, reader_of, recipe, row, rows
from usertune.core.errors import UserError
from usertune.data.prepare import check_user
from usertune.data.reader import BadSampleError, RawSample
from usertune.data.readers.catalogue import get_reader
from usertune.exchange.look import look_at


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
