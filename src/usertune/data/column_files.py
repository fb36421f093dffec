"""Stream the rows of Parquet files and of the Arrow files of Hugging Face datasets, column by column.

pyarrow is imported when a file is opened, since few studies need it. Arrow files are mapped into memory, and Parquet
files are read in blocks: a file may be larger than memory.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from usertune.core.errors import UserError, shown
from usertune.data.reader import BadSampleError
from usertune.data.samples import path_problem

# Rows can hold images.
ROWS = 64
BLOCK = 1 << 20
STATE, SPLITS = "state.json", "dataset_dict.json"
PARQUET = "*.parquet"
BYTES = "bytes"
# The last bytes of a complete stream. pyarrow does not notice a stream that was cut between two batches.
_MAGIC = b"PAR1"
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class Batch(NamedTuple):
    """Some rows of a file.

    Attributes:
        group: number of the Parquet row group or of the Arrow batch that holds them.
        first: number of the first row in its group.
        columns: `pyarrow.RecordBatch`.
    """

    group: int
    first: int
    columns: Any


class ColumnFile:
    """An open Parquet or Arrow file.

    Attributes:
        schema: `pyarrow.Schema`.
    """

    def __init__(self, path: Path, stack: ExitStack) -> None:
        """Open a file, which ``stack`` closes.

        Raises:
            UserError: it is damaged, or another kind of file.
            OSError: it cannot be read.
        """
        self.path, self._stack = path, stack
        # The stream of single groups, its columns, and the number of its next batch.
        self._forward: tuple[Any, Collection[str], int] = (None, (), 0)
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - len(_END)))
            end = file.read()
        with naming_damage(path):
            if path.suffix == ".parquet" or end.endswith(_MAGIC):
                import pyarrow.parquet as parquet

                self._parquet = parquet.ParquetFile(path, buffer_size=BLOCK, pre_buffer=False)
                stack.callback(self._parquet.close)
                self.schema = self._parquet.schema_arrow
            elif end != _END:
                raise UserError(f"{path}: the file ends too early, or is no Arrow stream; copy or save it again")
            else:
                self._parquet = None
                self.schema = self._stream(None).schema
            # Names are decoded where they are asked for; damaged ones are reported here.
            self.schema.names  # noqa: B018

    def rows_of_groups(self) -> Iterator[int]:
        """Yield the number of rows of each group, without reading them."""
        with naming_damage(self.path):
            if self._parquet is not None:
                metadata = self._parquet.metadata
                yield from (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
            else:
                yield from (batch.num_rows for batch in self._stream([0] if len(self.schema) else None))

    def all_have_bytes(self, name: str) -> bool:
        """Whether the file says that each image of a column has bytes, so that no path counts."""
        with naming_damage(self.path):
            return self._parquet is not None and self._share_of_bytes(name) == 1

    def batches(
        self, columns: Collection[str], group: int | None = None, without_bytes: bool = False
    ) -> Iterator[Batch]:
        """Yield the rows, checked to be safe to access.

        Args:
            columns: the columns to read, at least one.
            group: the only group to read; None for all.
            without_bytes: leave out the bytes of ``{bytes, path}``, if the file says that there are none.

        Raises:
            UserError: the file is damaged.
        """
        with naming_damage(self.path):
            if self._parquet is not None:
                yield from self._parquet_batches(columns, group, without_bytes)
                return
            if group is None:
                for number, batch in enumerate(self._stream(self._fields(columns))):
                    yield _checked(number, batch)
            else:
                yield _checked(group, self._arrow_batch(columns, group))

    def _arrow_batch(self, columns: Collection[str], group: int) -> Any:
        """Return a batch; going forward, no batch is looked at twice."""
        stream, of_columns, following = self._forward
        if stream is None or of_columns != columns or group < following:
            stream, following = self._stream(self._fields(columns)), 0
        for _ in range(following, group):
            stream.read_next_batch()
        batch = stream.read_next_batch()
        self._forward = stream, columns, group + 1
        return batch

    def _fields(self, columns: Collection[str]) -> list[int]:
        return [self.schema.get_field_index(name) for name in columns]

    def _parquet_batches(self, columns: Collection[str], group: int | None, without_bytes: bool) -> Iterator[Batch]:
        leaves = self._leaves(columns, without_bytes)
        for number in range(self._parquet.num_row_groups) if group is None else [group]:
            first = 0
            for batch in self._parquet.iter_batches(ROWS, row_groups=[number], columns=leaves, use_threads=False):
                batch.validate()
                yield Batch(number, first, batch)
                first += batch.num_rows

    def _leaves(self, columns: Collection[str], without_bytes: bool) -> list[str]:
        """Return the paths of what Parquet stores as columns of their own, such as ``image.path``."""
        schema = self._parquet.schema
        paths = [schema.column(index).path for index in range(len(schema))]
        leaves = []
        for name in columns:
            own = [path for path in paths if path == name or path.startswith(f"{name}.")]
            others = [path for path in own if path.rsplit(".", 1)[-1] != BYTES]
            leaves += others if without_bytes and others and self._share_of_bytes(name) == 0 else own
        return leaves

    def _share_of_bytes(self, name: str) -> float | None:
        """Return how many images of a Parquet column have bytes, 0 to 1, by its statistics; None if they do not say."""
        schema, metadata = self._parquet.schema, self._parquet.metadata
        paths = [schema.column(index).path for index in range(len(schema))]
        found = [
            index for index, path in enumerate(paths) if path.startswith(f"{name}.") and path.endswith(f".{BYTES}")
        ]
        if not found:
            return 0
        values = nulls = 0
        for group in range(metadata.num_row_groups):
            chunk = metadata.row_group(group).column(found[0])
            if chunk.statistics is None or chunk.statistics.null_count is None:
                return None
            values, nulls = values + chunk.num_values, nulls + chunk.statistics.null_count
        return 1 - nulls / values if values else 0

    def _stream(self, fields: Sequence[int] | None) -> Any:
        import pyarrow as pa

        options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        source = self._stack.enter_context(pa.memory_map(str(self.path)))
        return self._stack.enter_context(pa.ipc.open_stream(source, options=options))


def _checked(group: int, batch: Any) -> Batch:
    # Offsets of a damaged file could lead anywhere in memory.
    batch.validate(full=True)
    return Batch(group, 0, batch)


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turn pyarrow's errors about a file into a `UserError` that names it."""
    import pyarrow as pa

    try:
        yield
    # Some damage is reported as OSError without number, or as too much memory.
    except (pa.ArrowException, OSError, MemoryError, ValueError, KeyError, StopIteration) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        problem = shown(str(error).splitlines()[0]) if str(error) else type(error).__name__
        raise UserError(f"{path}: the file is damaged ({problem}); copy or save it again") from None


def value_of(scalar: Any, column: str) -> Any:
    """Return a value of a table; a number that is not one, as pandas marks missing values, is None.

    Raises:
        BadSampleError: Python cannot express it.
    """
    try:
        value = scalar.as_py()
    except (ValueError, OverflowError) as error:
        raise BadSampleError(column, f"the value cannot be read: {error}") from None
    return None if isinstance(value, float) and value != value else value


def paths_in(scalar: Any) -> Iterator[str]:
    """Yield the image paths of a value, whose bytes are not looked at."""
    import pyarrow as pa

    if not scalar.is_valid:
        return
    if isinstance(scalar, pa.DictionaryScalar):
        scalar = scalar.value
    if isinstance(scalar, pa.ListScalar):
        for one in scalar.values:
            yield from paths_in(one)
    elif isinstance(scalar, pa.StructScalar):
        if "path" in scalar and not ("bytes" in scalar and scalar["bytes"].is_valid):
            yield from paths_in(scalar["path"])
    else:
        # Reading reports a path that is not UTF-8.
        with suppress(BadSampleError):
            if isinstance(value := value_of(scalar, "image"), str):
                yield value


def kind_of(kind: Any) -> str:
    """Return what a column holds: text, bytes, integer, number, numbers, image, list, list of text, null, ..."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = kind_of(kind.value_type)
        if inner in ("integer", "number"):
            return "numbers"
        return f"list of {inner}" if inner in ("text", "bytes", "image") else "list"
    checks = {
        "null": (types.is_null,),
        "text": (types.is_string, types.is_large_string),
        "bytes": (types.is_binary, types.is_large_binary),
        "integer": (types.is_integer,),
        "number": (types.is_floating,),
    }
    found = next((name for name, tests in checks.items() if any(test(kind) for test in tests)), "other")
    if types.is_struct(kind) and {field.name for field in kind} & {"bytes", "path"}:
        return "image"
    return found


def files_in(folder: Path) -> list[Path]:
    """Return the files of a table in a folder: of a dataset saved to disk, or Parquet files; none if it has neither.

    Raises:
        UserError: the folder mixes both, holds several splits, or names files that it does not have.
    """
    shards = sorted(path for path in folder.glob(PARQUET) if path.is_file())
    if (folder / SPLITS).is_file():
        splits = sorted(path.parent.name for path in folder.glob(f"*/{STATE}"))
        raise UserError(
            f"{folder}: holds the splits {', '.join(map(shown, splits)) or 'of no data'}; name one of these "
            "folders, or several, in dataset.options.files"
        )
    if not (folder / STATE).is_file():
        return shards
    if shards:
        raise UserError(
            f"{folder}: holds a dataset saved to disk ({STATE}) and Parquet files ({shards[0].name}, ...), perhaps the "
            "same samples twice; name the files to read in dataset.options.files"
        )
    return _saved_files(folder)


def _saved_files(folder: Path) -> list[Path]:
    """Return the files that ``state.json`` names; others, such as ``cache-*.arrow``, are copies."""
    state = folder / STATE
    try:
        found = json.loads(state.read_text(encoding="utf-8"))
        names = [file["filename"] for file in found["_data_files"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(f"{state}: this is not the state of a dataset saved to disk; save the dataset again") from None
    if found.get("_indices_files") or found.get("_indices_data_files"):
        raise UserError(f"{state}: the dataset selects rows of its files; call flatten_indices() and save it again")
    for name in names:
        if not isinstance(name, str) or "/" in name or path_problem(name):
            raise UserError(f"{state}: {shown(name)} is not the name of a file in this folder; save the dataset again")
        if not (folder / name).is_file():
            raise UserError(f"{state}: the file {name} is missing; copy the whole dataset")
    return [folder / name for name in names]
