"""Reads answers that were generated elsewhere: JSON Lines with the id of a sample and its answer.

The files come from other programs, perhaps from strangers, and may be of any size: they are read line by line, and only
the answers of the wanted samples are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from usertune.core.errors import UserError, shown
from usertune.core.files import other_unicode
from usertune.core.users import format_users

# The names of a line's keys; `response` is that of ms-swift.
ID_KEYS = ("id", "sample_id")
TEXT_KEYS = ("text", "prediction", "response", "output")
USER_KEY, STOPPED_KEY = "user", "stopped"
# Stands for the id of a user in the path of a file.
USER_FIELD = "{user}"
LONGEST_LINE = 1 << 20
LISTED = 20
# Lines that planning looks at.
HEAD_LINES = 20
BOM = b"\xef\xbb\xbf"


class GivenAnswer(NamedTuple):
    """An answer from elsewhere: its text, whether it ended by itself (None: unknown), and its line in the file."""

    text: str
    stopped: bool | None
    line: int


@dataclass
class GivenAnswers:
    """What `read_answers` found.

    Attributes:
        answers: user -> id -> answer, in the order of the wanted samples.
        files: path -> SHA-256 of the content.
    """

    answers: dict[str, dict[str, GivenAnswer]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


class _Problems:
    """Problems of several files; the message lists the first ones and counts the others."""

    def __init__(self) -> None:
        self._listed: list[str] = []
        self._count = 0

    def add(self, text: str) -> None:
        self._count += 1
        if self._count <= LISTED:
            self._listed.append(text)

    def raise_if_any(self, key: str) -> None:
        if not self._count:
            return
        if self._count == 1:
            raise UserError(f"{key}: {self._listed[0]}")
        more = [f"... and {self._count - LISTED:,} more"] if self._count > LISTED else []
        lines = "\n".join(f"  {text}" for text in [*self._listed, *more])
        raise UserError(f"{key}: {self._count:,} problems with the answers:\n{lines}")


def files_of(path: str, users: Collection[str]) -> dict[str, Path]:
    """Return user -> file of answers; the same file for all users if the path has no `USER_FIELD`."""
    return {user: Path(path.replace(USER_FIELD, user)).expanduser() for user in users}


def check_answers(path: str, users: Collection[str], key: str) -> None:
    """Check during planning that the files of answers exist and begin as such files do.

    Args:
        path: ``answers`` of an experiment.
        users: the test users.
        key: the key of the study, for messages.

    Raises:
        UserError: a file is missing, is a folder or cannot be read, or its first lines hold no answers; one message
            lists all problems.
    """
    problems = _Problems()
    files = files_of(path, users)
    missing = [user for user, file in files.items() if not file.exists()]
    if missing and USER_FIELD not in path:
        problems.add(f"the file {path} does not exist")
    elif missing:
        problems.add(
            f"no file for user{'s' * (len(missing) > 1)} {format_users(missing)}: {files[missing[0]]} does not exist; "
            "remove these users from the study, or give their answers"
        )
    for file, owner in _owners(path, {user: file for user, file in files.items() if user not in missing}).items():
        try:
            for number, line in _lines(file, problems):
                if number > HEAD_LINES:
                    break
                if isinstance(said := _parsed(line, owner), str):
                    problems.add(f"{file}:{number}: {said}")
        except OSError as error:
            problems.add(_unreadable(file, error))
    problems.raise_if_any(key)


def read_answers(path: str, wanted: Mapping[str, Mapping[str, object]], key: str) -> GivenAnswers:
    """Read the answers of some users' samples.

    Args:
        path: path of the file of each user, with `USER_FIELD`, or of one file whose lines name their users.
        wanted: user -> a mapping whose keys are the ids of the samples; every one needs exactly one answer.
        key: the key of the study, for messages.

    Raises:
        UserError: an answer is missing, occurs twice, or is of another sample; a line is not such an object, or is of
            another user; a file cannot be read, or is not UTF-8. One message lists all problems, with file and line.
    """
    found = GivenAnswers(answers={user: {} for user in wanted})
    problems = _Problems()
    files = files_of(path, wanted)
    for file, owner in _owners(path, files).items():
        total = hashlib.sha256()
        try:
            for number, line in _lines(file, problems, total):
                _take(found.answers, wanted, _parsed(line, owner), f"{file}:{number}", number, problems)
        except OSError as error:
            problems.add(_unreadable(file, error))
        found.files[str(file)] = total.hexdigest()
    for user, ids in wanted.items():
        own = found.answers[user]
        if missing := [identity for identity in ids if identity not in own]:
            problems.add(
                f"{files[user]}: no answer for {len(missing):,} sample{'s' * (len(missing) > 1)} of user {user}: "
                f"{', '.join(map(shown, missing[:3]))}{', ...' if len(missing) > 3 else ''}; answer them too, or leave "
                "them out of the data"
            )
        found.answers[user] = {identity: own[identity] for identity in ids if identity in own}
    problems.raise_if_any(key)
    return found


def _owners(path: str, files: Mapping[str, Path]) -> dict[Path, str | None]:
    """Return file -> its user, or None for a file of several users, whose lines name them."""
    return {file: user if USER_FIELD in path else None for user, file in files.items()}


def _lines(file: Path, problems: _Problems, total: Any = None) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the lines that are not blank; lines that are too long are problems."""
    with file.open("rb") as content:
        start = content.read(64)
        if other := other_unicode(start):
            problems.add(f"{file}: the file is {other}; save it as UTF-8")
            return
        content.seek(len(BOM) if start.startswith(BOM) else 0)
        if total is not None and start.startswith(BOM):
            total.update(BOM)
        number = 0
        while line := content.readline(LONGEST_LINE + 1):
            number += 1
            if total is not None:
                total.update(line)
            if len(line) > LONGEST_LINE:
                problems.add(f"{file}:{number}: longer than {LONGEST_LINE:,} bytes; one JSON object a line is needed")
                if not line.endswith(b"\n"):
                    _skip_line(content, total)
            elif line.strip():
                yield number, line


def _skip_line(content: BinaryIO, total: Any) -> None:
    while (rest := content.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
        if total is not None:
            total.update(rest)
    if total is not None:
        total.update(rest)


class _Line(NamedTuple):
    user: str
    id: str
    text: str
    stopped: bool | None


def _parsed(line: bytes, owner: str | None) -> _Line | str:
    """Return what a line says, or its problem."""
    try:
        entry = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8"
    except (ValueError, RecursionError) as error:
        return f"not valid JSON ({str(error)[:80]}); write one JSON object a line"
    if not isinstance(entry, dict):
        return f"{shown(entry)} is not an object with {ID_KEYS[0]} and {TEXT_KEYS[0]}"
    id_key = next((name for name in ID_KEYS if entry.get(name) is not None), None)
    if id_key is None:
        return (
            f"no {' or '.join(ID_KEYS)}, so it belongs to no sample (ms-swift keeps the id with "
            "--remove_unused_columns false)"
        )
    texts = {key: entry[key] for key in TEXT_KEYS if entry.get(key) is not None}
    if not texts:
        return f"no answer: one of {', '.join(TEXT_KEYS)} is needed"
    key, text = next(iter(texts.items()))
    if any(other != text for other in texts.values()):
        return f"{' and '.join(texts)} differ; keep the one that is the answer"
    user = entry.get(USER_KEY, owner)
    if user is None:
        return f"no {USER_KEY}, which lines of a file for several users need; or give each a file, with {USER_FIELD}"
    for name, value in ((id_key, entry[id_key]), (USER_KEY, user)):
        if not isinstance(value, str | int) or isinstance(value, bool):
            return f"{name} is {shown(value)}, which is no name"
    if not isinstance(text, str):
        return f"{key} is {shown(text)}, not a text"
    stopped = entry.get(STOPPED_KEY)
    if not isinstance(stopped, bool | None):
        return f"{STOPPED_KEY} is {shown(stopped)}; write true, or false for an answer that was cut off"
    said = _Line(str(user), str(entry[id_key]), text, stopped)
    if not _is_unicode("".join((said.user, said.id, said.text))):
        return "it holds half of a character (a lone surrogate); write the text again"
    if owner is not None and said.user != owner:
        return f"an answer of user {shown(said.user)} in the file of user {owner}; move it to the file of its user"
    return said


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _take(
    answers: dict[str, dict[str, GivenAnswer]],
    wanted: Mapping[str, Mapping[str, object]],
    said: _Line | str,
    location: str,
    number: int,
    problems: _Problems,
) -> None:
    """Keep a line's answer if its sample is wanted."""
    if isinstance(said, str):
        problems.add(f"{location}: {said}")
        return
    if said.user not in wanted:
        # A file of all users has answers for other jobs.
        return
    own = answers[said.user]
    if said.id not in wanted[said.user]:
        problems.add(f"{location}: user {said.user} has no sample {shown(said.id)}; remove the line, or correct its id")
    elif said.id in own:
        problems.add(
            f"{location}: sample {shown(said.id)} of user {said.user} was answered in line {own[said.id].line} too; "
            "keep one of the two"
        )
    else:
        own[said.id] = GivenAnswer(said.text, said.stopped, number)


def _unreadable(file: Path, error: OSError) -> str:
    if file.is_dir():
        return f"{file} is a folder; give a file, such as {file}/user_{USER_FIELD}.jsonl"
    return f"{file}: cannot be read: {error.strerror}"
