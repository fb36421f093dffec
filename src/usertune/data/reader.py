"""The interface of readers, which read the raw data of a dataset user by user."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from usertune.core.hashing import digest, digest_file
from usertune.core.recipe import Settings
from usertune.core.users import format_users
from usertune.data.samples import About, Turn
from usertune.tasks.truth import Truth


class Location(NamedTuple):
    """Where a raw sample is: its file, and its line (from 1) or its number among the file's samples."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class BadSampleError(ValueError):
    """A raw sample does not pass the checks; ``field`` is the part of the sample that is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


class FileState(NamedTuple):
    """A file, as a scan of its folder shows it: path relative to the root, bytes, modification time in ns."""

    path: str
    size: int
    modified: int


class UserFiles(NamedTuple):
    """The files of one user, each list sorted by path: `Reader.sources`, and the images."""

    sources: list[FileState]
    images: list[FileState]


class Numbers(NamedTuple):
    """A point or box of a sample that states its frame; ``token`` stands for it in the sample's texts.

    Args:
        token: occurs once in the texts of the turns.
        values: x and y, or left, top, right and bottom.
        frame: their coordinate frame, whatever ``dataset.frame`` says.
        image: the index of their image among the sample's.
    """

    token: str
    values: tuple[float, ...]
    frame: str
    image: int = 0


@dataclass
class RawSample:
    """One raw sample, in role/content messages, with images by path and not yet opened.

    Args:
        id: its name, unique among the user's samples.
        episode: name of its episode.
        step: its number in the episode.
        messages: the turns; the last one is the answer. ``{"type": "image"}`` means the next of ``image_paths``. With a
            ``truth``, the turns end with the question, and the task writes the answer.
        image_paths: relative to the dataset's root, in the order of the turns.
        numbers: the index of each turn in the raw data, for messages.
        truth: the right action, for data with actions instead of answers; its coordinates are in the raw data's frame.
        about: what else is known, such as ``{"app": "Mail", "scenario": "work"}``. Prompts and tables can use it.
        objects: points and boxes that are put into the texts in 0-1000. Other numbers of such a sample are in 0-1000.
        turn_field: the field of a turn in the raw data by its index, for messages.
        embedded: the bytes of those of ``image_paths`` that are not files but inside the file with the sample. Their
            paths are relative to the prepared samples, see `usertune.data.image_store`.
    """

    id: str
    episode: str
    step: int
    messages: list[Turn]
    image_paths: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    truth: Truth | None = None
    about: About = field(default_factory=dict)
    objects: list[Numbers] = field(default_factory=list)
    turn_field: str = "messages[{}].content"
    embedded: dict[str, bytes] = field(default_factory=dict)


class NoOptions(Settings):
    """The options of a reader that has none."""


class Reader(Protocol):
    """Reads the raw data of one dataset.

    The raw data may be one file per user, a tree of files per user, or one file for all users; `sources` names them.
    Images are files below the root, and samples name their paths.

    A reader's module also has two constants, which are read without importing the module:

    - ``FRAME``: the format's coordinate frame (see `usertune.data.frames`), for studies without ``dataset.frame``; None
      if the format does not decide it, so that the study must.
    - ``BARE``: whether samples are bare instructions ("open the mail"). Then the default of ``dataset.prompt.user`` is
      the ``PROMPT`` of the task, which asks for an answer in the form that the task reads.

    Planning calls every method but `read` for every user, so these must be quick and import no image library. A planner
    and a job use one reader for all their users, so that it can look through a file of many users once and keep where
    each of them is.
    """

    looks_for: str
    """What the reader looks for in the root, for messages: ``user_<id>.jsonl``."""
    Options: type[Settings]
    """The keys of ``dataset.options`` that the format has, with defaults; `NoOptions` if none."""

    def __init__(self, root: Path, options: Any) -> None:
        """Take the folder ``root``, which exists, and ``options``, an object of `Options`; the methods read from it."""

    def users(self) -> list[str]:
        """Return the users who have raw data, numbers first.

        Raises:
            UserError: users are named in files that cannot be read, or no sample names one.
        """

    def sources(self, user: str) -> Sequence[Path]:
        """Return the files of a user's raw samples, without images; they may hold other users' samples too.

        They are the inputs of the user's prepare job: if one changes, the user is prepared again. Empty for a user
        without raw data.
        """

    def images(self, user: str) -> Collection[str]:
        """Return the image paths in a user's raw samples, relative to the root, without embedded images.

        Damaged samples and files are skipped: `read` reports them.
        """

    def count(self, user: str) -> int:
        """Return the greatest possible number of a user's raw samples, good and bad; 0 if files cannot be read."""

    def read(self, user: str) -> Iterator[tuple[Location, RawSample | BadSampleError]]:
        """Yield a user's raw samples one by one, in the order of the data, so that few are in memory at once.

        The error of an unreadable sample is yielded, not raised, so that the others follow. Only the format is checked:
        the caller checks answers, targets, images, and that ids are unique.

        Raises:
            UserError: a file cannot be read at all; the message names it and says what to do.
        """


@runtime_checkable
class ScansFiles(Protocol):
    """A further method of readers of trees with many small files per user.

    Planning asks for the state of all raw data. `Reader.images` would read every file, and each image then takes a call
    of its own; a scan lists folders.
    """

    def scan(self, user: str) -> UserFiles:
        """Return the user's files with size and time; `Reader.images` returns the same images.

        Files that cannot be seen are left out: `Reader.read` reports them.
        """


@runtime_checkable
class RenumbersUsers(Protocol):
    """A further method of readers that give users other ids than the data."""

    def raw_id(self, user: str) -> str:
        """Return the id that a user has in the data; it is recorded in the user's manifest."""


def describe_available(reader: Reader) -> str:
    """Return a phrase that lists a dataset's users."""
    users = reader.users()
    if not users:
        return f"found no {reader.looks_for} there"
    return f"found {len(users)} users there: {format_users(users)}"


def digest_sources(paths: Sequence[Path], root: Path) -> str:
    """Return the digest of a user's files: of the content of one file, or of the paths and contents of several."""
    if len(paths) == 1:
        return _digest_file(paths[0])
    return digest({os.path.relpath(path, root): _digest_file(path) for path in paths})


def _digest_file(path: Path) -> str:
    status = path.stat()
    return _digest_of_state(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest_of_state(path: Path, _inode: int, _size: int, _modified: int) -> str:
    """Return the digest of a file, which a job reads once for all its users."""
    return digest_file(path)
