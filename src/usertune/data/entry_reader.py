"""What readers of files with samples of many users share: they look through the files once to know where all are.

A subclass says what a sample of its format looks like, and how files that are not JSON are read. Files are read once
for the planning of all users, or for all users of a job; after that the samples of a user are read from their places in
the files.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar, NamedTuple

from pydantic import AfterValidator, Field

from usertune.core.errors import UserError, shown
from usertune.core.recipe import Settings
from usertune.core.users import sort_key
from usertune.data.json_entries import Entry, entries_of, read_entry
from usertune.data.reader import BadSampleError, Location, RawSample
from usertune.data.recognise import Found, recognise_entries
from usertune.data.samples import About, path_problem
from usertune.data.turns import checked_text
from usertune.data.user_of import ALL, FILE, UserOf

# What is kept of the position of each sample: file, number, start, length, item, group, position, part.
_COLUMNS = 8


def inside_root(path: str) -> str:
    """Return a path or pattern below the root, as an option has it.

    Raises:
        ValueError: it could lead out of the root.
    """
    if path and (problem := path_problem(path)):
        raise ValueError(problem)
    return path


InsideRoot = Annotated[str, AfterValidator(inside_root)]


class EntryOptions(Settings):
    """What readers of JSON files can be told."""

    files: InsideRoot | Annotated[list[InsideRoot], Field(min_length=1)] | None = None
    """Files with samples: a name or pattern below the root, or a list of these. Default: those of the format."""
    images: InsideRoot = ""
    """Folder below the root to which the image paths in the data are relative; default: the root."""
    user: Annotated[str, Field(min_length=1)] = ALL
    """Who a sample belongs to: ``all`` (one user), ``folder`` (the first folder of its image's path), ``file`` (the
    name of the file that holds it), or the key that names the user."""
    about: list[str] = []  # noqa: RUF012 (pydantic copies it)
    """Further keys of the samples that are kept, for prompts (``{about.KEY}``) and tables."""


class Place(NamedTuple):
    """Where a sample is, and what follows from it.

    Attributes:
        user: id of the user.
        name: the default of its id.
        part: see `usertune.data.json_entries.Entry`.
        group: see there.
        position: see there, and `EntryReader.steps`.
    """

    user: str
    name: str
    part: str
    group: int
    position: int


@dataclass
class _Samples:
    """Positions of a user's samples, and their image paths."""

    rows: array[int] = field(default_factory=lambda: array("Q"))
    images: set[str] = field(default_factory=set)


@dataclass
class _Index:
    """What one look through the files found.

    Attributes:
        states: size and time of each file.
        users: user -> samples.
        parts: the keys of lists.
        nobody: samples that do not name their user.
        problems: why files could not be read to their end.
    """

    states: list[tuple[int, int]]
    users: dict[str, _Samples] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    nobody: list[tuple[Location, BadSampleError]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class EntryReader:
    """Reads the samples of JSON and JSON Lines files below the root, see `usertune.data.reader.Reader`.

    A sample that does not name its user could be anyone's, so it is reported for every user.
    """

    looks_for: str = "*.json or *.jsonl (dataset.options.files)"
    Options: ClassVar[type[EntryOptions]] = EntryOptions
    PATTERNS: ClassVar[tuple[str, ...]] = ("*.json", "*.jsonl")
    PARTS: ClassVar[bool] = False
    """Whether a file may be an object of lists."""

    def __init__(self, root: Path, options: Any = None) -> None:
        self.root = root
        self.options: EntryOptions = self.Options() if options is None else options
        self.user_of = UserOf(self.options.user)
        self._found: _Index | None = None

    @classmethod
    def recognise(cls, source: Path) -> Found | None:
        """Return what a file or folder holds in this format, see `usertune.data.recognise`."""
        return cls(source).recognised()

    def recognised(self) -> Found | None:
        """Return what the root, a file or a folder, holds in this format, read with the options."""

        def fits(entry: Mapping[str, Any]) -> bool:
            try:
                self.sample(self.completed(entry), Place(ALL, "1", "", 0, 0))
            except (BadSampleError, UserError):
                return False
            return True

        found = recognise_entries(self.root, self.PATTERNS, fits, self.image_names, self.PARTS)
        return found[0] if found else None

    def image_names(self, entry: Mapping[str, Any]) -> Iterable[Any]:
        """Return the image paths of a sample as they are in the data, texts or not."""
        raise NotImplementedError

    def steps(self, _entry: Mapping[str, Any]) -> int | None:
        """Return how many samples an entry holds, for formats with an episode per entry; None: it is one itself.

        The position of a sample, see `Place`, is its number in such an entry.
        """
        return None

    def completed(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return an entry with keys that follow from others, such as one that can name the user."""
        return entry

    def sample(self, entry: Mapping[str, Any], place: Place) -> RawSample:
        """Return a sample.

        Raises:
            BadSampleError: it does not have the form of the format.
        """
        raise NotImplementedError

    def entries(self, path: Path) -> Iterator[Entry]:
        """Yield the samples of a file; of their values, user and image paths are enough.

        Raises:
            UserError: the file cannot be read to its end.
            OSError: the file cannot be read.
        """
        return entries_of(path, self.PARTS)

    def look_up(self, stack: ExitStack) -> Callable[[Path, int, int, int], Any]:
        """Return a function that returns a sample by its file and its ``start``, ``length`` and ``item`` there.

        It is called in the order of the samples. It raises `BadSampleError` for a sample that cannot be read.

        Args:
            stack: closes what the function opens.
        """
        handles: dict[Path, BinaryIO] = {}

        def value(path: Path, start: int, length: int, item: int) -> Any:
            if path not in handles:
                handles[path] = stack.enter_context(path.open("rb"))
            return read_entry(handles[path], start, length, item)

        return value

    def find_files(self) -> list[Path]:
        """Return the files with samples.

        Raises:
            UserError: a file cannot be used.
        """
        wanted = self.options.files or self.PATTERNS
        patterns = [wanted] if isinstance(wanted, str) else wanted
        found = {path for pattern in patterns for path in self.root.glob(pattern)}
        return sorted(path for path in found if path.is_file())

    def users(self) -> list[str]:
        """Return the users, numbers first.

        Raises:
            UserError: a file cannot be read, or no sample names its user.
        """
        if not self._files:
            return []
        if self.user_of.rule == ALL:
            return [ALL]
        index = self._index()
        if index.problems:
            raise UserError("\n".join(index.problems))
        if not index.users and index.nobody:
            location, problem = index.nobody[0]
            raise UserError(f"{location}: {problem.field}: {problem}")
        return sorted(index.users, key=sort_key)

    def sources(self, user: str) -> list[Path]:
        """Return the files, which hold every user's samples."""
        there = user == ALL if self.user_of.rule == ALL else user in self._index().users
        return self._files if there else []

    def images(self, user: str) -> set[str]:
        """Return the image paths of the user's samples."""
        found = self._index().users.get(user)
        return found.images if found else set()

    def count(self, user: str) -> int:
        """Return the number of the user's samples, with those that could be anyone's."""
        index = self._index()
        found = index.users.get(user)
        return (len(found.rows) // _COLUMNS if found else 0) + len(index.nobody)

    def read(self, user: str) -> Iterator[tuple[Location, RawSample | BadSampleError]]:
        """Yield the user's samples, file by file."""
        index = self._index()
        if index.problems:
            raise UserError("\n".join(index.problems))
        rows = index.users[user].rows if user in index.users else array("Q")
        parts = list(index.parts)
        # An entry with several samples is parsed once.
        parsed_at, value = (-1, -1, -1, -1), None
        with ExitStack() as stack:
            look_up = self.look_up(stack)
            for at in range(0, len(rows), _COLUMNS):
                file, number, start, length, item, group, position, part = rows[at : at + _COLUMNS]
                path = self._files[file]
                name = f"{self._name(path)}-{number}" + (f"-{item + 1}" if item else "")
                place = Place(user, name, parts[part], group, position)
                try:
                    if parsed_at != (file, start, length, item):
                        value, parsed_at = look_up(path, start, length, item), (file, start, length, item)
                    yield Location(path, number), self._complete(self._mapping(value), place)
                except BadSampleError as problem:
                    yield Location(path, number), problem
        yield from index.nobody

    def in_images(self, name: str) -> str:
        """Return an image path of the data relative to the root."""
        folder = self.options.images
        return f"{folder}/{name}" if folder else name

    def about(self, entry: Mapping[str, Any], keys: Iterable[str] = ()) -> About:
        """Return what else is known of a sample: the values of ``keys`` that it has, and of the option ``about``.

        Raises:
            BadSampleError: see `about_of`.
        """
        return about_of(entry, (*keys, *self.options.about))

    @cached_property
    def _files(self) -> list[Path]:
        files = self.find_files()
        for path in files:
            if problem := path_problem(path.relative_to(self.root).as_posix()):
                raise UserError(f"{self.root}: the name of the file {shown(path.name)} {problem}")
        return files

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).with_suffix("").as_posix()[-100:]

    def _complete(self, entry: Mapping[str, Any], place: Place) -> RawSample:
        sample = self.sample(entry, place)
        key = self.user_of.key
        if key and key not in sample.about and str(entry[key]) != place.user:
            # The name that the id was made from.
            sample.about[key] = entry[key]
        return sample

    def _mapping(self, value: Any) -> Mapping[str, Any]:
        if isinstance(value, BadSampleError):
            raise value
        if not isinstance(value, dict):
            raise BadSampleError("line", f"expected a JSON object, found {type(value).__name__}")
        return self.completed(value)

    def _index(self) -> _Index:
        states = [(status.st_size, status.st_mtime_ns) for status in (path.stat() for path in self._files)]
        if self._found is None or self._found.states != states:
            self._found = _Index(states)
            for number, path in enumerate(self._files):
                try:
                    for entry in self.entries(path):
                        self._add(self._found, number, path, entry)
                except UserError as error:
                    self._found.problems.append(str(error))
                except OSError as error:
                    self._found.problems.append(f"{path}: cannot be read: {error.strerror}")
        return self._found

    def _add(self, index: _Index, number: int, path: Path, entry: Entry) -> None:
        names: list[str] = []
        steps: int | None = None
        try:
            if isinstance(entry.value, dict):
                steps = self.steps(entry.value)
                names = [name for name in self.image_names(entry.value) if isinstance(name, str)]
            value = {} if self.user_of.rule in (ALL, FILE) else self._mapping(entry.value)
            user = self.user_of(value, path, names)
        except BadSampleError as problem:
            index.nobody.append((Location(path, entry.number), problem))
            return
        found = index.users.setdefault(user, _Samples())
        part = index.parts.setdefault(entry.part, len(index.parts))
        for position in (entry.position,) if steps is None else range(steps):
            found.rows.extend(
                (number, entry.number, entry.start, entry.length, entry.item, entry.group, position, part)
            )
        paths = (self.in_images(name) for name in names)
        found.images.update(name for name in paths if not path_problem(name))


def about_of(entry: Mapping[str, Any], keys: Iterable[str]) -> About:
    """Return the values under some keys of a sample, for those that it has.

    Raises:
        BadSampleError: a value is neither text nor number.
    """
    found: About = {}
    for key in keys:
        if (value := entry.get(key)) is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value in (math.inf, -math.inf):
            raise BadSampleError(key, f"{shown(value)} is neither a text nor a number, so it cannot be kept")
        found[key] = checked_text(value, key) if isinstance(value, str) else value
    return found


def numbers(value: Any, key: str, counts: Iterable[int]) -> tuple[float, ...]:
    """Return the numbers of a list in the data.

    Args:
        value: the list.
        key: its key, for the error.
        counts: how many numbers it may have.

    Raises:
        BadSampleError: it is no list of so many finite numbers.
    """
    allowed = list(counts)
    finite = isinstance(value, list) and all(
        isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < 1e15 for one in value
    )
    if not finite or len(value) not in allowed:
        raise BadSampleError(key, f"{' or '.join(map(str, allowed))} numbers are needed, found {shown(value)}")
    return tuple(map(float, value))
