"""Tables with samples of two users, in every layout that the reader for tables knows."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.calls import PREPARE
from tests.support.datasets import SIZE, TARGETS, box, save_to_disk, table_of
from usertune.data.prepare import prepare_user
from usertune.data.reader import BadSampleError, RawSample, Reader
from usertune.data.readers.catalogue import get_reader
from usertune.data.recipe import PrepareRecipe
from usertune.data.samples import read_user

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
