"""Reader for tables: Parquet files, and Hugging Face datasets saved to disk (``save_to_disk``).

The study says which column is what (``dataset.options``)::

    columns: {instruction: question, image: screenshot, box: bbox}
    box: xyxy
    user: annotator
    about: [app]

An image is a path, its bytes, ``{"bytes": ..., "path": ...}`` as Hugging Face stores it, or a list of these. Bytes are
used where there are any; the path next to them is a name that means nothing here. The prepare step copies these images,
see `usertune.data.image_store`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from usertune.core.errors import UserError, shown
from usertune.core.recipe import Settings
from usertune.data.column_files import SPLITS, STATE, Batch, ColumnFile, files_in, kind_of, paths_in, value_of
from usertune.data.entry_reader import EntryOptions, EntryReader, Place, numbers
from usertune.data.image_store import stored_path
from usertune.data.json_entries import Entry
from usertune.data.placeholders import with_images
from usertune.data.reader import BadSampleError, RawSample
from usertune.data.recognise import Found, box_of, found_in, with_boxes
from usertune.data.turns import checked_name, checked_text, question, read_turns
from usertune.tasks.truth import FINISH, Truth

FRAME = None
BARE = True

ANSWERS = ("box", "point", "answer", "messages")
# What a column may hold, by the role that it has; see `_kind`.
KINDS = {
    "instruction": ("text",),
    "image": ("text", "bytes", "image", "list of text", "list of bytes", "list of image"),
    "box": ("numbers",),
    "point": ("numbers",),
    "answer": ("text", "list of text"),
    "messages": ("list",),
    "id": ("text", "integer"),
    "episode": ("text", "integer"),
    "step": ("integer", "number"),
}
KINDS_OF_BYTES = ("bytes", "list of bytes")
Column = Annotated[str, Field(min_length=1)]
# Usual names of columns, for `usertune import`.
NAMES = {
    "instruction": ("instruction", "question", "query", "goal", "prompt"),
    "image": ("image", "images", "screenshot", "image_path", "img_filename", "file_name"),
    "messages": ("messages",),
    "box": ("bbox", "box", "bounding_box"),
    "point": ("point", "click", "coordinate"),
    "answer": ("answer", "response"),
    "id": ("id", "sample_id"),
    "episode": ("episode", "episode_id"),
    "step": ("step", "step_id"),
}
ROWS_LOOKED_AT = 200


class Columns(Settings):
    """Names of the columns. One of ``box``, ``point``, ``answer`` and ``messages`` is needed."""

    instruction: Column | None = None
    """What is asked; needed unless ``messages`` is given."""
    image: Column | None = None
    """The screenshot, or a list of them: paths, or images."""
    box: Column | None = None
    """Four numbers, of the element to click; see the option ``box``."""
    point: Column | None = None
    """x and y of the click."""
    answer: Column | None = None
    """The answer as text; or, for the task ``text``, a list: the answer, then others that are as right."""
    messages: Column | None = None
    """Turns with ``role`` and ``content``, the answer included."""
    id: Column | None = None
    """Name of the sample; default: file and row."""
    episode: Column | None = None
    """Name of the episode; default: the sample's name."""
    step: Column | None = None
    """Number of the sample in its episode; default: 0."""

    def by_role(self) -> dict[str, str]:
        """Return role -> column for those that are given."""
        return {role: name for role, name in self if name is not None}


class ParquetOptions(EntryOptions):
    """Options of ``dataset.format: parquet``. ``files`` can name folders too."""

    columns: Columns
    """Which column is what, such as ``{instruction: question, image: screenshot, box: bbox}``; needed."""
    box: Literal["xywh", "xyxy"] | None = None
    """What the four numbers of ``columns.box`` are: left, top, width and height, or left, top, right and bottom."""

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        roles = self.columns.by_role()
        given = [role for role in ANSWERS if role in roles]
        if len(given) != 1:
            raise ValueError(f"columns: name one of {', '.join(ANSWERS)}; found {' and '.join(given) or 'none'}")
        if ("instruction" in roles) == ("messages" in roles):
            raise ValueError("columns: name either instruction or messages")
        if ("box" in roles) != (self.box is not None):
            raise ValueError(
                "box: say whether columns.box is xywh (left, top, width, height) or xyxy (left, top, right, bottom); "
                "leave it out without columns.box"
            )
        return self


class ParquetReader(EntryReader):
    """Reads the rows of tables, see `usertune.data.reader.Reader`.

    Planning reads the column of the user and the paths of images alone. A job reads the row groups (or Arrow batches)
    that have rows of its users.
    """

    looks_for = "*.parquet, or state.json of a dataset saved to disk (dataset.options.files)"
    Options = ParquetOptions
    options: ParquetOptions

    def __init__(self, root: Path, options: ParquetOptions) -> None:
        super().__init__(root, options)
        self.roles = options.columns.by_role()
        self.image = self.roles.get("image")

    @classmethod
    def recognise(cls, source: Path) -> Found | None:
        """Return what a file or folder holds in this format, see `usertune.data.recognise`."""
        return _recognised(source)

    def find_files(self) -> list[Path]:
        """Return the files of the folders and patterns of the option ``files``; by default, of the root."""
        wanted = self.options.files or ""
        found: list[Path] = []
        for pattern in [wanted] if isinstance(wanted, str) else wanted:
            for path in sorted(self.root.glob(pattern)) if pattern else [self.root]:
                found += files_in(path) if path.is_dir() else [path] if path.is_file() else []
        return list(dict.fromkeys(found))

    def entries(self, path: Path) -> Iterator[Entry]:
        """Yield users and paths of images; an image's bytes are not read."""
        with ExitStack() as stack:
            file = self._opened(path, stack)
            columns = list(dict.fromkeys(filter(None, (self.user_of.key, self._image_with_paths(file)))))
            row = 0
            if not columns:
                for group, rows in enumerate(file.rows_of_groups()):
                    for within in range(rows):
                        row += 1
                        yield Entry(row, group, within, 0, {})
                return
            for batch in file.batches(columns, without_bytes=True):
                for within in range(batch.columns.num_rows):
                    row += 1
                    yield Entry(row, batch.group, batch.first + within, 0, self._planned(batch, columns, within))

    def look_up(self, stack: ExitStack) -> Callable[[Path, int, int, int], Any]:
        """Return a function that returns a row by its file, group and number in the group."""
        cursor = _Cursor(self, stack)
        return lambda path, group, row, _item: cursor.row(path, group, row)

    def image_names(self, entry: Mapping[str, Any]) -> Iterable[Any]:
        """Return the paths of images without bytes."""
        value = entry.get(self.image) if self.image else None
        return [name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)]

    def sample(self, entry: Mapping[str, Any], place: Place) -> RawSample:
        """Return a sample with its truth, its answer or its turns."""
        name = self._name_of(entry, "id", place.name)
        about = self.about(entry)
        sample = RawSample(name, self._name_of(entry, "episode", name), self._step(entry), [], about=about)
        names = [self._image_path(one, sample) for one in self._images(entry)]
        if turns := self.roles.get("messages"):
            self._read_messages(entry[turns], turns, names, sample)
            return sample
        sample.image_paths = names
        column = self.roles["instruction"]
        sample.messages = question(entry[column], column, len(names))
        answer = self.roles.get("answer")
        if answer and isinstance(entry[answer], list):
            sample.truth = _final_answer(entry[answer], answer)
        elif answer:
            # The same checks as of the instruction.
            content = question(entry[answer], answer, 0)[0]["content"]
            sample.messages.append({"role": "assistant", "content": content})
            sample.numbers = [0, 0]
            sample.turn_field = answer.replace("{", "{{").replace("}", "}}")
        elif point := self.roles.get("point"):
            x, y = numbers(entry[point], point, [2])
            sample.truth = Truth(point=(x, y))
        else:
            sample.truth = Truth(box=self._box(entry, self.roles["box"]))
        return sample

    def columns(self) -> list[str]:
        """Return the columns of the samples."""
        return list(dict.fromkeys([*self.roles.values(), *self.options.about, *filter(None, [self.user_of.key])]))

    def _opened(self, path: Path, stack: ExitStack) -> ColumnFile:
        """Open a file that has the columns of the study.

        Raises:
            UserError: it lacks one, or one holds something else.
        """
        file = ColumnFile(path, stack)
        names = file.schema.names
        options = {name: f"columns.{role}" for role, name in self.roles.items()}
        for name in self.columns():
            option = "dataset.options." + options.get(name, "user" if name == self.user_of.key else "about")
            if (count := names.count(name)) != 1:
                there = ", ".join(map(shown, names)) or "none"
                problem = "occurs several times" if count else "is missing"
                raise UserError(f"{path}: the column {shown(name)} ({option}) {problem}; the columns there: {there}")
        for role, name in self.roles.items():
            kind = kind_of(file.schema.field(name).type)
            # A column of nothing but missing values has no type.
            if kind not in (*KINDS[role], "null"):
                raise UserError(
                    f"{path}: the column {shown(name)} (dataset.options.columns.{role}) holds "
                    f"{shown(str(file.schema.field(name).type))}; {' or '.join(KINDS[role])} is needed"
                )
        return file

    def _image_with_paths(self, file: ColumnFile) -> str | None:
        if not self.image or kind_of(file.schema.field(self.image).type) in KINDS_OF_BYTES:
            return None
        return None if file.all_have_bytes(self.image) else self.image

    def _planned(self, batch: Batch, columns: Iterable[str], row: int) -> Any:
        """Return a row with paths in place of images."""
        try:
            cells = {name: batch.columns.column(name)[row] for name in columns}
            return {
                name: list(paths_in(cell)) if name == self.image else value_of(cell, name)
                for name, cell in cells.items()
            }
        except BadSampleError as problem:
            return problem

    def _images(self, entry: Mapping[str, Any]) -> list[Any]:
        value = entry[self.image] if self.image else None
        return [] if value is None else value if isinstance(value, list) else [value]

    def _image_path(self, value: Any, sample: RawSample) -> str:
        """Return the path of an image; bytes are added to the sample."""
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes):
            path = stored_path(content)
            sample.embedded[path] = content
            return path
        name = value.get("path") if isinstance(value, dict) else value
        if not isinstance(name, str):
            raise BadSampleError(str(self.image), "an image is missing: it has neither bytes nor a path")
        return self.in_images(checked_text(name, str(self.image)))

    def _read_messages(self, turns: Any, column: str, names: list[str], sample: RawSample) -> None:
        try:
            read_turns(_with_names(turns, names, str(self.image)), sample)
        except BadSampleError as problem:
            raise BadSampleError(problem.field.replace("messages", column, 1), str(problem)) from None
        sample.turn_field = column.replace("{", "{{").replace("}", "}}") + "[{}].content"

    def _box(self, entry: Mapping[str, Any], column: str) -> tuple[float, float, float, float]:
        left, top, third, fourth = numbers(entry[column], column, [4])
        if self.options.box == "xyxy":
            return left, top, third, fourth
        if third < 0 or fourth < 0:
            raise BadSampleError(column, f"width {third:g} and height {fourth:g} cannot be negative")
        return left, top, left + third, top + fourth

    def _name_of(self, entry: Mapping[str, Any], role: str, default: str) -> str:
        column = self.roles.get(role)
        return default if column is None or entry[column] is None else checked_name(entry, column, default)

    def _step(self, entry: Mapping[str, Any]) -> int:
        column = self.roles.get("step")
        value = entry[column] if column else 0
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise BadSampleError(str(column), f"{shown(value)} is not a whole number")
        return int(value)


def _final_answer(texts: list[Any], column: str) -> Truth:
    """Return the first of several right answers, with the others that are accepted."""
    if not texts:
        raise BadSampleError(column, "the list of answers is empty")
    for number, text in enumerate(texts):
        question(text, f"{column}[{number}]", 0)
    return Truth(FINISH, text=texts[0], accepted=tuple(texts[1:]))


class _Cursor:
    """Goes forward through the rows of files, so that a group is read once for a user."""

    def __init__(self, reader: ParquetReader, stack: ExitStack) -> None:
        self.reader, self.stack = reader, stack
        self.opened = stack.enter_context(ExitStack())
        self.at: tuple[Path, int] | None = None
        self.batches: Iterator[Batch] = iter(())
        self.batch: Batch | None = None
        self.file: ColumnFile | None = None

    def row(self, path: Path, group: int, row: int) -> Any:
        """Return a row."""
        if self.file is None or self.file.path != path:
            self.opened.close()
            self.opened = self.stack.enter_context(ExitStack())
            self.file, self.at = self.reader._opened(path, self.opened), None
        if self.at != (path, group):
            self.at, self.batch = (path, group), None
            self.batches = self.file.batches(self.reader.columns(), group)
        while self.batch is None or row >= self.batch.first + self.batch.columns.num_rows:
            self.batch = next(self.batches, None)
            if self.batch is None:
                raise UserError(f"{path}: the file changed while it was read; run again")
        within = row - self.batch.first
        return {name: value_of(self.batch.columns.column(name)[within], name) for name in self.reader.columns()}


def _with_names(turns: Any, names: list[str], column: str) -> Any:
    """Return turns in which each image has its path: where ``<image>`` or a part without path is, in order."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return turns
    if all(isinstance(turn.get("content"), str) and isinstance(turn.get("role"), str) for turn in turns):
        return with_images([(turn["role"], turn["content"]) for turn in turns], names, column, strip=False)
    waiting, asked, found = iter(names), 0, []
    for turn in turns:
        content = turn.get("content")
        parts = []
        for part in content if isinstance(content, list) else []:
            own = {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else part
            if isinstance(own, dict) and own.get("type") == "image" and not {"image", "path"} & own.keys():
                asked += 1
                own["image"] = next(waiting, "")
            parts.append(own)
        found.append({**turn, "content": parts if isinstance(content, list) else content})
    if asked != len(names):
        raise BadSampleError(column, f"{len(names)} images, but the turns have {asked} parts for them")
    return found


def _recognised(source: Path) -> Found | None:
    """Return the table in a file or folder, with the columns that have usual names."""
    if source.is_file():
        files, named = ([source] if source.suffix in (".parquet", ".arrow") else []), [source]
    else:
        splits = sorted(path.parent for path in source.glob(f"*/{STATE}"))
        folders = splits if (source / SPLITS).is_file() else [source, source / "data"]
        tables = {folder: files for folder in folders if (files := files_in(folder))}
        named, files = list(tables), [file for own in tables.values() for file in own]
    if not files:
        return None
    with ExitStack() as stack:
        table = ColumnFile(files[0], stack)
        roles = _roles(table)
        if roles is None:
            return None
        names = [name for name in table.schema.names if table.schema.names.count(name) == 1]
        scalars = [name for name in names if kind_of(table.schema.field(name).type) in ("text", "integer")]
        columns = {*scalars, *roles.values()}
        batch = next(table.batches(columns, without_bytes=True), None)
        rows = range(min(ROWS_LOOKED_AT, batch.columns.num_rows)) if batch else ()
        cells = [{name: batch.columns.column(name)[row] for name in columns} for row in rows] if batch else []
        image = roles.get("image")
        paths = [path for row in cells if image for path in paths_in(row[image])]
        with suppress(BadSampleError):
            entries = [{name: value_of(row[name], name) for name in columns if name != image} for row in cells]
            found = found_in(source, named, named != [source], entries, paths)
            found = replace(found, options={**found.options, "columns": roles})
            boxes = [box for entry in entries if "box" in roles and (box := box_of(entry, roles["box"]))]
            return with_boxes(found, boxes) if "box" in roles else found
    return None


def _roles(file: ColumnFile) -> dict[str, str] | None:
    """Return the roles of columns with usual names and types; None if they do not make samples."""
    found: dict[str, str] = {}
    for role, usual in NAMES.items():
        # Several answers are for the task text, which a person chooses.
        kinds = ("text",) if role == "answer" else KINDS[role]
        for name in usual:
            if file.schema.names.count(name) == 1 and kind_of(file.schema.field(name).type) in kinds:
                found.setdefault(role, name)
    if "messages" in found:
        return {role: name for role, name in found.items() if role not in ("instruction", "box", "point", "answer")}
    if "instruction" not in found or not (answers := [role for role in ANSWERS if role in found]):
        return None
    return {role: name for role, name in found.items() if role not in answers[1:]}
