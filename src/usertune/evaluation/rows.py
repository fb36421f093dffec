"""The rows of scores, a million or more: read into columns, and written below one another without parsing them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv

from usertune.core.errors import UserError
from usertune.core.files import atomic_writer
from usertune.evaluation.tables import is_text

# What only people read; half of a table.
LONG_TEXTS = ("instruction", "answer", "image", "box")
# A row must fit into it.
BLOCK_BYTES = 1 << 26


def read_rows(path: Path) -> pd.DataFrame:
    """Read a table of rows of scores without its `LONG_TEXTS`; empty fields of number columns become NaN.

    Raises:
        UserError: the file is missing or is not such a table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            header = next(csv.reader(lines), [])
        found: pd.DataFrame = _parsed(path, path, header).to_pandas()
        return found
    except FileNotFoundError:
        raise UserError(f"{path}: this table does not exist; run snakemake, which makes it") from None


def read_many(files: Sequence[Path]) -> tuple[pa.Table, list[int]]:
    """Read tables below one another, without their `LONG_TEXTS`; return them, and the number of rows of each.

    Fields of a column that a file does not have are null.

    Raises:
        UserError: a file is not such a table.
    """
    contents = [path.read_bytes() for path in files]
    counts = [sum(part.count(b"\n") for part in content.split(b'"')[::2]) - 1 for content in contents]
    found, start = [], 0
    for head, same in groupby(contents, key=_head):
        own = list(same)
        paths, start = files[start : start + len(own)], start + len(own)
        header = next(csv.reader(io.StringIO(head.decode("utf-8"), newline="")), [])
        try:
            joined = b"".join([head, *(content[len(head) :] for content in own)])
            found.append(_parsed(pa.BufferReader(joined), paths[0], header))
        except UserError:
            # Now the message names the file.
            for path in paths:
                _parsed(path, path, header)
            raise
    return pa.concat_tables(found, promote_options="default"), counts


def write_rows(path: Path, files: Iterable[tuple[str, Path]], provenance: str) -> str:
    """Write the rows of all files below one another, with the columns ``experiment`` and ``provenance``.

    Args:
        path: the table.
        files: (experiment, its rows of one user).
        provenance: text for the last column.

    Returns:
        The SHA-256 of the table.
    """
    files = list(files)
    headers = {file: _header(file) for _, file in files}
    columns = list(dict.fromkeys(name for header in headers.values() for name in header))
    total = hashlib.sha256()
    with atomic_writer(path) as out:
        for text in _pieces(files, headers, columns, provenance):
            content = text.encode("utf-8")
            total.update(content)
            out.write(content)
    return total.hexdigest()


def _pieces(
    files: Sequence[tuple[str, Path]], headers: dict[Path, list[str]], columns: list[str], provenance: str
) -> Iterator[str]:
    yield _as_line(["experiment", *columns, "provenance"])
    for experiment, file in files:
        with file.open(encoding="utf-8", newline="") as lines:
            if headers[file] == columns:
                text = lines.read()[len(_as_line(columns)) :]
                before, after = _as_line([experiment, ""])[:-1], _as_line(["", provenance])
                # Every second part is within quotes, where a line does not end.
                parts = text.split('"')
                parts[::2] = [part.replace("\n", after + before) for part in parts[::2]]
                joined = '"'.join(parts)
                yield (before + joined).removesuffix(before) if text else ""
            else:
                rows = csv.DictReader(lines)
                yield "".join(
                    _as_line([experiment, *(row.get(name) or "" for name in columns), provenance]) for row in rows
                )


def _parsed(source: Path | pa.BufferReader, path: Path, header: Sequence[str]) -> pa.Table:
    kept = [name for name in header if name not in LONG_TEXTS]
    # Arrow's numbers are exact, as those of Python's float() are.
    types = {name: pa.string() if is_text(name) else pa.float64() for name in kept}
    try:
        if len(set(header)) < len(header):
            raise ValueError("a column is there twice")
        return pyarrow.csv.read_csv(
            source,
            read_options=pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(include_columns=kept, column_types=types, null_values=[""]),
        )
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: not the expected table ({error}); delete it and run snakemake again") from None


def _head(content: bytes) -> bytes:
    end = 0
    while (end := content.find(b"\n", end) + 1) and content.count(b'"', 0, end) % 2:
        pass
    return content[: end or len(content)]


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as lines:
        return next(csv.reader(lines), [])


def _as_line(fields: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue()
