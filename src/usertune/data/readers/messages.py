"""Reader for a folder of ``user_<id>.jsonl``: one sample per line, in role/content messages.

A line looks like this (``id``, ``episode`` and ``step`` are optional)::

    {"id": "7-0012", "episode": "7-e03", "step": 2, "messages": [
      {"role": "user", "content": [{"type": "image", "image": "images/user_7/0012.png"},
                                   {"type": "text", "text": "Where is the mail icon?"}]},
      {"role": "assistant", "content": "...the answer..."}]}

``content`` is a text or a list of parts; an image part has the file's path under ``image`` or ``path``, relative to the
dataset's root. The conversation ends with the answer. Earlier assistant turns are context in prediction; training
learns them like the last one.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from usertune.core.errors import UserError, shown
from usertune.core.files import other_unicode
from usertune.core.users import sort_key
from usertune.data.reader import BadSampleError, Location, NoOptions, RawSample
from usertune.data.samples import path_problem
from usertune.data.turns import checked_name, read_turns

FRAME = "relative_1000"
BARE = False

SAMPLE_KEYS = frozenset({"id", "episode", "step", "user", "messages"})
LARGEST_STEP = 10**18 - 1
_FILE = re.compile(r"user_([A-Za-z0-9_.-]+)\.jsonl")


class MessagesReader:
    """Reads a folder of ``user_<id>.jsonl``, see `usertune.data.reader.Reader`."""

    looks_for = "user_<id>.jsonl"
    Options = NoOptions

    def __init__(self, root: Path, options: NoOptions | None = None) -> None:
        self.root = root

    def users(self) -> list[str]:
        """Return the users with a file, numbers first."""
        found = (_FILE.fullmatch(path.name) for path in self.root.iterdir())
        return sorted((match[1] for match in found if match and self._file(match[1]).is_file()), key=sort_key)

    def sources(self, user: str) -> list[Path]:
        """Return the user's file."""
        path = self._file(user)
        return [path] if path.is_file() else []

    def images(self, user: str) -> set[str]:
        """Return the image paths in the user's file; lines that cannot be parsed are skipped."""
        references: set[str] = set()
        for _, line in self._lines_or_none(user):
            try:
                turns = json.loads(line.decode("utf-8"))["messages"]
                parts = [part for turn in turns for part in turn["content"] if isinstance(part, dict)]
                named = {part[key] for part in parts for key in ("image", "path") if isinstance(part.get(key), str)}
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            references.update(reference for reference in named if not path_problem(reference))
        return references

    def count(self, user: str) -> int:
        """Return the number of lines in the user's file that are not blank."""
        return sum(1 for _ in self._lines_or_none(user))

    def read(self, user: str) -> Iterator[tuple[Location, RawSample | BadSampleError]]:
        """Yield the samples of the user's file, line by line."""
        path = self._file(user)
        try:
            for number, line in raw_lines(path.read_bytes()):
                location = Location(path, number)
                try:
                    yield location, parse_line(line, user, number)
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


def parse_line(line: bytes | str, user: str, number: int) -> RawSample:
    """Parse and check one line of a raw file (1-based ``number``), without opening its images.

    Raises:
        BadSampleError: the line does not have the format of this module.
    """
    try:
        raw = json.loads(line if isinstance(line, str) else line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadSampleError("line", f"not valid UTF-8 (save the file as UTF-8): {error}") from None
    # A ValueError that is not a JSONDecodeError is a number with more digits than Python reads.
    except (ValueError, RecursionError) as error:
        raise BadSampleError("line", f"not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise BadSampleError("line", f"expected a JSON object, found {type(raw).__name__}")
    unknown = sorted(set(raw) - SAMPLE_KEYS)
    if unknown:
        raise BadSampleError(
            shown(unknown[0])[1:-1] or "''", f"unknown key; the keys are {', '.join(sorted(SAMPLE_KEYS))}"
        )
    if "user" in raw and not (isinstance(raw["user"], str | int) and str(raw["user"]) == user):
        raise BadSampleError("user", f"{shown(raw['user'])} in the file of user {user}")
    sample_id = checked_name(raw, "id", f"{user}-line-{number}")
    step = raw.get("step", 0)
    if isinstance(step, bool) or not isinstance(step, int) or abs(step) > LARGEST_STEP:
        raise BadSampleError("step", f"{shown(step)} is not an integer of at most 18 digits")
    sample = RawSample(sample_id, checked_name(raw, "episode", sample_id), step, [])
    read_turns(raw.get("messages"), sample)
    return sample
