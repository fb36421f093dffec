"""Rows of scores are read and joined as pandas would, to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from usertune.core.errors import UserError
from usertune.core.hashing import digest_file
from usertune.evaluation.rows import LONG_TEXTS, read_many, read_rows, write_rows
from usertune.evaluation.score import _as_csv
from usertune.evaluation.tables import read_table, read_texts

HOSTILE = [
    "plain",
    'a "quoted" word',
    "two\nlines",
    "comma, and\ttab",
    '"',
    '""\n,',
    "",
    "ends with\n",
    "ñ 按钮",
    "007",
    "NA",
]
NUMBERS = [0.1, 1e-05, 123456789.123456789, 5e-324, 1 / 3, -0.0, 2**53 + 1, None, 1.7976931348623157e308]


def rows_of(user: str, **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"{user}/{number}", "user": user, "parsed": number % 2, "x": NUMBERS[number % len(NUMBERS)]}
        | {"instruction": text, "answer": text[::-1], "about.app": text, **more}
        for number, text in enumerate(HOSTILE)
    ]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Rows of three users; what the data say of the second one's samples differs."""
    own = {"1": rows_of("1"), "2": rows_of("2", **{"about.other, one": 'say "it"'}), "3": rows_of("3")}
    paths = [tmp_path / f"user_{user}.csv" for user in own]
    for path, rows in zip(paths, own.values(), strict=True):
        path.write_text(_as_csv(rows), encoding="utf-8", newline="")
    return paths


def test_many_tables_below_one_another_are_what_pandas_reads(files: list[Path]) -> None:
    table, counts = read_many(files)
    assert counts == [len(HOSTILE)] * 3
    before = pd.concat([read_table(path) for path in files], ignore_index=True).drop(columns=["instruction", "answer"])
    found = table.to_pandas()
    assert list(found) == list(before)
    pd.testing.assert_frame_equal(found, before, check_exact=True)
    assert not set(found) & set(LONG_TEXTS)


def test_joined_rows_are_what_pandas_writes(files: list[Path], tmp_path: Path) -> None:
    given = [(name, path) for name in ("vanilla", "lora") for path in files]
    digest = write_rows(tmp_path / "samples.csv", given, "0123abcd")
    pieces = [read_texts(path) for _, path in given]
    for (name, _), piece in zip(given, pieces, strict=True):
        piece.insert(0, "experiment", name)
    before = pd.concat(pieces, ignore_index=True).fillna("").assign(provenance="0123abcd")
    assert (tmp_path / "samples.csv").read_bytes() == before.to_csv(index=False, lineterminator="\n").encode()
    assert digest == digest_file(tmp_path / "samples.csv")


def test_numbers_are_exact(files: list[Path]) -> None:
    values = read_rows(files[0])["x"].tolist()
    expected = [NUMBERS[number % len(NUMBERS)] for number in range(len(HOSTILE))]
    np.testing.assert_array_equal(values, [np.nan if value is None else float(value) for value in expected])


@pytest.mark.parametrize("content", ["id,x\na,1\nb\n", "id,x\na,seven\n", "id,id\na,b\n", ""])
def test_what_is_no_such_table_is_named(files: list[Path], content: str) -> None:
    files[1].write_text(content)
    with pytest.raises(UserError, match=r"user_2\.csv: not the expected table"):
        read_many(files)
    with pytest.raises(UserError, match=r"user_2\.csv: not the expected table"):
        read_rows(files[1])


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_rows(tmp_path / "samples.csv")
