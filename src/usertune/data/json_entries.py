"""Stream the samples of JSON and JSON Lines files, with their numbers and positions, so that each can be read again.

Three layouts are read: one sample per line; a list of samples, whose lists are opened too (``[[{...}, {...}], ...]``,
as packed files and lists of episodes are); and an object whose values are such lists (``{"part": [[{...}]]}``). At most
one sample and one block of a file are in memory.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from usertune.core.errors import UserError
from usertune.core.files import other_unicode
from usertune.data.reader import BadSampleError

BLOCK = 1 << 20
LONGEST_ENTRY = 1 << 28
DEEPEST = 8
_SPACE = re.compile(r"[ \t\n\r]*")
# An error so close to the end of what was read can be that of a value that goes on.
_NEAR_END = 16


class Entry(NamedTuple):
    """One sample of a file.

    Attributes:
        number: its number among the file's samples, from 1; its line in JSON Lines.
        start: its first byte in the file.
        length: its number of bytes.
        item: its number in its line, from 0, where a line holds a list.
        value: the parsed sample, or the error of a line that cannot be parsed.
        part: the key of the list that holds it, where the file is an object.
        group: the number of the innermost list that holds it, from 0.
        position: its number in that list, from 0.
    """

    number: int
    start: int
    length: int
    item: int
    value: Any
    part: str = ""
    group: int = 0
    position: int = 0


def entries_of(path: Path, parts: bool = False) -> Iterator[Entry]:
    """Yield the samples of a file, in order.

    Args:
        path: the file. ``.jsonl`` has one sample per line, and so has any other file that does not begin with a list.
        parts: whether the file may be an object of lists.

    Raises:
        UserError: the file is not UTF-8 by its byte order mark, or a list cannot be parsed from some place on.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        beginning = file.read(64)
        if other := other_unicode(beginning):
            raise UserError(f"{path}: the file is {other}; save it as UTF-8")
        mark = len(codecs.BOM_UTF8) if beginning.startswith(codecs.BOM_UTF8) else 0
        first = beginning[mark:].lstrip(b" \t\n\r")[:1] or file.read(BLOCK).lstrip(b" \t\n\r")[:1]
        is_list = path.suffix != ".jsonl" and first in ((b"[", b"{") if parts else (b"[",))
        file.seek(mark if is_list else 0)
        yield from _List(file, path, mark).entries() if is_list else _lines(file)


def read_entry(file: BinaryIO, start: int, length: int, item: int) -> Any:
    """Return a sample of an open file, by what `entries_of` said of it.

    Raises:
        BadSampleError: it cannot be parsed.
    """
    file.seek(start)
    value = parsed(file.read(length))
    return _flat(value)[item] if isinstance(value, list) else value


def parsed(line: bytes | str) -> Any:
    """Return a parsed line.

    Raises:
        BadSampleError: the line is not UTF-8 or not JSON.
    """
    try:
        return json.loads(line if isinstance(line, str) else line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadSampleError("line", f"not valid UTF-8 (save the file as UTF-8): {error}") from None
    # A ValueError that is not a JSONDecodeError is a number with more digits than Python reads.
    except (ValueError, RecursionError) as error:
        raise BadSampleError("line", f"not valid JSON: {error}") from None


def _lines(file: BinaryIO) -> Iterator[Entry]:
    start = 0
    for number, whole in enumerate(file, start=1):
        line = whole.removeprefix(codecs.BOM_UTF8)
        first, start = start + len(whole) - len(line), start + len(whole)
        if not line.strip():
            continue
        try:
            value = parsed(line)
        except BadSampleError as problem:
            yield Entry(number, first, len(line), 0, problem)
            continue
        items = _flat(value) if isinstance(value, list) else [value]
        for item, inner in enumerate(items):
            yield Entry(number, first, len(line), item, inner, group=number, position=item)


def _flat(values: list[Any]) -> list[Any]:
    """Return the items of nested lists; an empty list is one item, which no reader takes for a sample."""
    found: list[Any] = []
    waiting = list(reversed(values)) or [[]]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list) and value:
            waiting.extend(reversed(value))
        else:
            found.append(value)
    return found


class _List:
    """A window on a file with a list, which moves from sample to sample.

    Bytes that are not UTF-8 become halves of surrogate pairs, so that they make one sample bad and not the file.
    """

    def __init__(self, file: BinaryIO, path: Path, start: int) -> None:
        self.file, self.path, self.offset = file, path, start
        self.text, self.at, self.line, self.number = "", 0, 1, 0
        self.decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self.ended = False
        self.scan = json.JSONDecoder().raw_decode

    def entries(self) -> Iterator[Entry]:
        """Yield the samples."""
        part, groups, opened = "", 0, []  # type: str, int, list[list[int]]
        mapping = self._next() == "{"
        if mapping:
            self._take("{")
            if self._next() == "}":
                self._take("}")
                self._require_end()
                return
            part = self._key()
        while True:
            following = self._next()
            if following == "[" and len(opened) < DEEPEST:
                self._take("[")
                opened.append([groups, 0])
                groups += 1
                if self._next() != "]":
                    continue
            elif following in ("[", ""):
                raise self._error("the file ends too early" if not following else f"more than {DEEPEST} nested lists")
            elif not opened:
                raise self._error("a list of samples is needed here")
            else:
                yield self._entry(part, opened[-1])
            while opened and self._next() == "]":
                self._take("]")
                opened.pop()
            if opened:
                self._take(",")
            elif mapping and self._next() == ",":
                self._take(",")
                part = self._key()
            else:
                if mapping:
                    self._take("}")
                self._require_end()
                return

    def _entry(self, part: str, group: list[int]) -> Entry:
        self.number += 1
        start = self.offset
        value = self._value()
        entry = Entry(self.number, start, self.offset - start, 0, value, part, group[0], group[1])
        group[1] += 1
        return entry

    def _key(self) -> str:
        if self._next() != '"':
            raise self._error("a key is needed here")
        key = self._value()
        self._take(":")
        return str(key)

    def _next(self) -> str:
        """Return the next character that is not white space, without taking it; empty at the end of the file."""
        while True:
            found = _SPACE.match(self.text, self.at)
            assert found is not None
            self._move(found.end())
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._grow():
                return ""

    def _take(self, character: str) -> None:
        found = self._next()
        if found != character:
            raise self._error(f"{character!r} is needed, found {found!r}" if found else "the file ends too early")
        self._move(self.at + 1)

    def _value(self) -> Any:
        while True:
            try:
                value, end = self.scan(self.text, self.at)
                # A number may go on.
                if end < len(self.text) or not self._grow():
                    self._move(end)
                    return value
            except json.JSONDecodeError as error:
                goes_on = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - _NEAR_END
                if not goes_on or not self._grow():
                    raise self._error(error.msg) from None
            except (ValueError, RecursionError) as error:
                raise self._error(str(error)) from None

    def _require_end(self) -> None:
        if self._next():
            raise self._error("there is more after the end of the list")

    def _grow(self) -> bool:
        """Read on, as much again as is waiting, so that a long sample is parsed few times; False at the end."""
        if self.ended:
            return False
        waiting = self.text[self.at :]
        if len(waiting) > LONGEST_ENTRY:
            raise self._error(f"one sample has more than {LONGEST_ENTRY:,} characters")
        block = self.file.read(max(BLOCK, len(waiting)))
        self.ended = not block
        self.text, self.at = waiting + self.decode(block, self.ended), 0
        return True

    def _move(self, end: int) -> None:
        passed = self.text[self.at : end]
        self.offset += len(passed) if passed.isascii() else len(passed.encode("utf-8", "surrogateescape"))
        self.line += passed.count("\n")
        self.at = end

    def _error(self, problem: str) -> UserError:
        after = f"after sample {self.number}" if self.number else "before the first sample"
        where = f"line {self.line} (byte {self.offset}, {after})"
        return UserError(f"{self.path}: not valid JSON in {where}: {problem}; correct the file")
