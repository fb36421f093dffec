"""What a reader is to the steps that use it: it reads the raw data of a dataset, user by user."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from usertune.core.hashing import digest, digest_file
from usertune.core.users import format_users
from usertune.data.samples import Turn


class Location(NamedTuple):
    """Where a raw sample is: its file, and its 1-based line there, or its number among the file's samples."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class BadSampleError(ValueError):
    """A raw sample does not pass the checks; ``field`` says where in the sample."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


@dataclass
class RawSample:
    """One sample as the raw data have it, in role/content messages, with images by path and not yet opened.

    Args:
        id: its name, which no other sample of the user has.
        episode: name of the episode that it belongs to.
        step: its number in the episode.
        messages: the turns; the last one is the answer. ``{"type": "image"}`` stands for the next of ``image_paths``.
        image_paths: relative to the dataset's root, in the order in which the turns show them.
        numbers: the places that the turns have in the raw data, for messages; as many as turns.
    """

    id: str
    episode: str
    step: int
    messages: list[Turn]
    image_paths: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


class Reader(Protocol):
    """Reads the raw data of one dataset.

    A reader may find one file for each user, a tree of files for each, or one file for all: only `sources` says. Images
    are files below the root, and a sample names them; data with the images' bytes inside are to be unpacked before.

    Its module also has the constant ``FRAME``: what the format says its coordinates are (see `usertune.data.frames`),
    for studies that do not say it (``dataset.frame``). Planning reads it without importing the module.

    Planning makes a reader and calls every method but `read` for every user, so these are to be quick, and to import no
    image library.
    """

    looks_for: str
    """What the reader looks for in the root, for messages: ``user_<id>.jsonl``."""

    def __init__(self, root: Path) -> None:
        """Read what is in the folder ``root``, when asked to; the folder exists."""

    def users(self) -> list[str]:
        """Return the users who have raw data, numbers first."""

    def sources(self, user: str) -> Sequence[Path]:
        """Return the files that hold a user's raw samples, without images; they may hold other users' too.

        They are the inputs of the user's prepare job. If one of them changes, the user is prepared again. Empty for a
        user without raw data.
        """

    def images(self, user: str) -> Collection[str]:
        """Return the paths of the images that a user's raw samples name, relative to the root.

        Damaged samples and files are passed over: `read` reports them.
        """

    def count(self, user: str) -> int:
        """Return how many raw samples a user has at most, good and bad; 0 where the files cannot be read."""

    def read(self, user: str) -> Iterator[tuple[Location, RawSample | BadSampleError]]:
        """Yield a user's raw samples one by one, in the order of the data, so that few are in memory at once.

        For a sample that cannot be read, the error is yielded and not raised, so that the others follow. Only the form
        is checked: the caller checks answers, targets and images, and that no id occurs twice.

        Raises:
            UserError: a file cannot be read as a whole; the message names it and says what to do.
        """


def describe_available(reader: Reader) -> str:
    """Return a phrase that says which users a dataset has."""
    users = reader.users()
    if not users:
        return f"found no {reader.looks_for} there"
    return f"found {len(users)} users there: {format_users(users)}"


def digest_sources(paths: Sequence[Path], root: Path) -> str:
    """Return the digest of the content of a user's files: that of the file where there is one."""
    if len(paths) == 1:
        return digest_file(paths[0])
    return digest({os.path.relpath(path, root): digest_file(path) for path in paths})
