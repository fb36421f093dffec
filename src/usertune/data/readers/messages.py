"""Reader for a folder of ``user_<id>.jsonl``: one sample per line, in role/content messages.

A line looks like this (``id``, ``episode`` and ``step`` are optional)::

    {"id": "7-0012", "episode": "7-e03", "step": 2, "messages": [
      {"role": "user", "content": [{"type": "image", "image": "images/user_7/0012.png"},
                                   {"type": "text", "text": "Where is the mail icon?"}]},
      {"role": "assistant", "content": "...the answer..."}]}

``content`` is a text or a list of parts; an image part has the file's path under ``image`` or ``path``, relative to the
dataset's root. The conversation ends with the answer. Earlier assistant turns are context in prediction; training
learns them like the last one.

With the option ``file``, one file holds the samples of all users, and ``user`` is needed in every line.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic_core import from_json

from usertune.core.errors import UserError, shown
from usertune.core.files import other_unicode
from usertune.core.recipe import Settings
from usertune.core.users import sort_key
from usertune.data.entry_reader import EntryOptions, EntryReader, InsideRoot, Place, about_of
from usertune.data.json_entries import parsed
from usertune.data.reader import BadSampleError, Location, RawSample
from usertune.data.recognise import FILES, USER_KEYS, Found, first_entries
from usertune.data.samples import path_problem
from usertune.data.turns import checked_name, read_turns
from usertune.data.user_of import ALL

FRAME = "relative_1000"
BARE = False

SAMPLE_KEYS = frozenset({"id", "episode", "step", "user", "messages"})
LARGEST_STEP = 10**18 - 1
_FILE = re.compile(r"user_([A-Za-z0-9_.-]+)\.jsonl")


class MessagesOptions(Settings):
    """Options of ``dataset.format: messages``."""

    file: InsideRoot | None = None
    """One file below the root with the samples of all users; null: a file ``user_<id>.jsonl`` for each."""
    user: Annotated[str, Field(min_length=1)] = "user"
    """With ``file``, who a sample belongs to: the key that names the user, or ``all``, ``folder`` or ``file``."""
    about: list[str] = []  # noqa: RUF012 (pydantic copies it)
    """Further keys that samples may have, which are kept for prompts (``{about.KEY}``) and tables."""


class MessagesReader:
    """Reads a folder of ``user_<id>.jsonl``, or one file, see `usertune.data.reader.Reader`."""

    looks_for = "user_<id>.jsonl"
    Options = MessagesOptions

    def __init__(self, root: Path, options: MessagesOptions | None = None) -> None:
        self.root, self.options = root, options or MessagesOptions()
        self._table: _Table | None = None
        if self.options.file:
            self.looks_for = self.options.file
            named = EntryOptions(files=self.options.file, user=self.options.user, about=self.options.about)
            self._table = _Table(root, named)

    @classmethod
    def recognise(cls, source: Path) -> Found | None:
        """Return what a file or folder holds in this format, see `usertune.data.recognise`."""
        folder = source.is_dir()
        files = sorted(path for path in source.iterdir() if _FILE.fullmatch(path.name)) if folder else [source]
        if not files:
            found = map(cls.recognise, sorted(source.glob("*.jsonl"))[:FILES])
            return next((one for one in found if one), None)
        entries = [entry for path in files[:FILES] for entry in first_entries(path)]
        if not entries or not all(map(_is_sample, entries)):
            return None
        scalar = {key for entry in entries for key, value in entry.items() if isinstance(value, str | int | float)}
        options: dict[str, Any] = {"about": sorted(scalar - SAMPLE_KEYS)} if scalar - SAMPLE_KEYS else {}
        if folder:
            return Found(source, f"{len(files)} files user_<id>.jsonl with messages", options)
        options = {"file": source.name, **options}
        if not all("user" in entry for entry in entries):
            options["user"] = next((key for key in USER_KEYS if all(key in entry for entry in entries)), ALL)
        return Found(source.parent, f"{source.name}: messages of all users", options)

    def users(self) -> list[str]:
        """Return the users with a file, numbers first."""
        if self._table:
            return self._table.users()
        found = (_FILE.fullmatch(path.name) for path in self.root.iterdir())
        return sorted((match[1] for match in found if match and self._file(match[1]).is_file()), key=sort_key)

    def sources(self, user: str) -> list[Path]:
        """Return the user's file."""
        if self._table:
            return self._table.sources(user)
        path = self._file(user)
        return [path] if path.is_file() else []

    def images(self, user: str) -> set[str]:
        """Return the image paths in the user's file; lines that cannot be parsed are skipped."""
        if self._table:
            return self._table.images(user)
        references: set[str] = set()
        for _, line in self._lines_or_none(user):
            with suppress(ValueError, RecursionError):
                references.update(_image_names(_parsed_quickly(line)))
        return {reference for reference in references if not path_problem(reference)}

    def count(self, user: str) -> int:
        """Return the number of lines in the user's file that are not blank."""
        if self._table:
            return self._table.count(user)
        return sum(1 for _ in self._lines_or_none(user))

    def read(self, user: str) -> Iterator[tuple[Location, RawSample | BadSampleError]]:
        """Yield the samples of the user's file, line by line."""
        if self._table:
            yield from self._table.read(user)
            return
        path = self._file(user)
        try:
            for number, line in raw_lines(path.read_bytes()):
                location = Location(path, number)
                try:
                    yield location, parse_line(line, user, number, self.options.about)
                except BadSampleError as problem:
                    yield location, problem
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def _file(self, user: str) -> Path:
        return self.root / f"user_{user}.jsonl"

    def _lines_or_none(self, user: str) -> Iterator[tuple[int, bytes]]:
        # The prepare step reports a file that cannot be read.
        with suppress(UserError, OSError):
            yield from raw_lines(self._file(user).read_bytes())


def raw_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number (from 1) and the bytes of each line of a raw file that is not blank.

    Only a line feed ends a line; a carriage return before it is white space in JSON. A byte order mark is removed from
    the start of any line, since joined files can have several.

    Raises:
        UserError: the file is UTF-16 or UTF-32.
    """
    if other := other_unicode(content):
        raise UserError(f"the file is {other}; save it as UTF-8")
    for number, line in enumerate(content.split(b"\n"), start=1):
        line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield number, line


def parse_line(line: bytes | str, user: str, number: int, about: Collection[str] = ()) -> RawSample:
    """Parse and check one line of a user's raw file (1-based ``number``), without opening its images.

    Args:
        line: the line.
        user: the user of the file.
        number: number of the line, from 1.
        about: further keys that the sample may have.

    Raises:
        BadSampleError: the line does not have the format of this module.
    """
    raw = parsed(line)
    if not isinstance(raw, dict):
        raise BadSampleError("line", f"expected a JSON object, found {type(raw).__name__}")
    if "user" in raw and not (isinstance(raw["user"], str | int) and str(raw["user"]) == user):
        raise BadSampleError("user", f"{shown(raw['user'])} in the file of user {user}")
    return _sample(raw, f"{user}-line-{number}", {*SAMPLE_KEYS, *about}, about)


class _Table(EntryReader):
    """Reads one file with the samples of all users."""

    def image_names(self, entry: Mapping[str, Any]) -> Iterable[Any]:
        return _image_names(entry)

    def sample(self, entry: Mapping[str, Any], place: Place) -> RawSample:
        keys = {*SAMPLE_KEYS, *self.options.about, *([self.user_of.key] if self.user_of.key else [])}
        return _sample(entry, f"{place.user}-{place.name}", keys, self.options.about)


def _sample(raw: Mapping[str, Any], name: str, keys: Collection[str], about: Iterable[str]) -> RawSample:
    """Return a sample; ``name`` is the default of its id, and ``keys`` are those that it may have."""
    unknown = sorted(set(raw) - set(keys))
    if unknown:
        key = shown(unknown[0])[1:-1] or "''"
        raise BadSampleError(
            key, f"unknown key; the keys are {', '.join(sorted(keys))} (to keep it, add it to dataset.options.about)"
        )
    sample_id = checked_name(raw, "id", name)
    step = raw.get("step", 0)
    if isinstance(step, bool) or not isinstance(step, int) or abs(step) > LARGEST_STEP:
        raise BadSampleError("step", f"{shown(step)} is not an integer of at most 18 digits")
    sample = RawSample(sample_id, checked_name(raw, "episode", sample_id), step, [], about=about_of(raw, about))
    read_turns(raw.get("messages"), sample)
    return sample


def _parsed_quickly(line: bytes) -> Any:
    """Parse a line in half the time of json, which decides if pydantic refuses it, as for half of a surrogate pair."""
    try:
        return from_json(line, cache_strings="keys")
    except ValueError:
        return json.loads(line.decode("utf-8"))


def _image_names(raw: Any) -> list[str]:
    try:
        contents = [turn["content"] for turn in raw["messages"]]
        parts = [part for content in contents if type(content) is not str for part in content if type(part) is dict]
    except (KeyError, TypeError):
        return []
    names = [part.get(key) for key in ("image", "path") for part in parts]
    return [name for name in names if isinstance(name, str)]


def _is_sample(entry: Mapping[str, Any]) -> bool:
    """Whether a sample looks as in this format; in that of ms-swift, images have a key of their own."""
    turns = entry.get("messages")
    return (
        isinstance(turns, list)
        and all(isinstance(turn, dict) and "role" in turn for turn in turns)
        and (not {"images", "image", "objects"} & entry.keys())
    )
