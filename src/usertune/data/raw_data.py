"""The state of raw data: whether a user's files or images changed since they were prepared."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from posixpath import normpath
from typing import Any, Literal

from usertune.core.hashing import digest, digest_file
from usertune.data.reader import Reader, ScansFiles

WatchImages = Literal["stat", "content", "never"]


class RawData:
    """The current raw data of a dataset, with cached states.

    Planning compares the state of each prepared user with the one that its manifest records. The prepare job records
    the state that it found before it read the data, so that an edit while it reads them is seen later.

    Args:
        root: folder of the raw data.
        reader: their reader.
        watch_images: what counts of images: size and time, bytes, or nothing.
    """

    def __init__(self, root: Path, reader: Reader, watch_images: WatchImages) -> None:
        self.root, self.reader, self._watch_images = root, reader, watch_images
        self._states: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._folders: dict[str, dict[str, tuple[int, int]]] = {}

    def state(self, user: str) -> str:
        """Return a digest of a user's raw data: size and time of each file, and the state of the images."""
        if user not in self._states:
            self._states[user] = digest(self._state(user))
        return self._states[user]

    def count(self, user: str) -> int:
        """Return how many raw samples a user has, with bad ones; each user is counted once."""
        if user not in self._counts:
            self._counts[user] = self.reader.count(user)
        return self._counts[user]

    def image_stats(self, user: str) -> list[tuple[str, int, int]]:
        """Return the sorted (path, size in bytes, modification time in ns) of the images of a user's samples.

        A missing image has size and time -1. Each folder is scanned once for all users.
        """
        stats = []
        for name in sorted(self.reader.images(user)):
            folder, _, file = normpath(name).rpartition("/")
            size, modified = self._folder(folder).get(file, (-1, -1))
            stats.append((name, size, modified))
        return stats

    def _state(self, user: str) -> Any:
        if self._watch_images != "content" and isinstance(self.reader, ScansFiles):
            files = self.reader.scan(user)
            return [files.sources, files.images if self._watch_images == "stat" else "not watched"]
        stats = [(path, path.stat()) for path in self.reader.sources(user)]
        sources = [[os.path.relpath(path, self.root), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
        return [sources, self._state_of_images(user)]

    def _state_of_images(self, user: str) -> Any:
        if self._watch_images == "never":
            return "not watched"
        if self._watch_images == "stat":
            return self.image_stats(user)
        digests = {}
        for name in self.reader.images(user):
            # The prepare step reports unreadable images, with the line of the sample.
            with suppress(OSError):
                if (path := self.root / name).is_file():
                    digests[name] = digest_file(path)
        return digests

    def _folder(self, folder: str) -> dict[str, tuple[int, int]]:
        """Return name -> (size, time) of the files of a folder below the root."""
        if (known := self._folders.get(folder)) is not None:
            return known
        found = self._folders[folder] = {}
        with suppress(OSError), os.scandir(self.root / folder) as entries:
            for entry in entries:
                # One dangling link must not make all images of the folder missing.
                try:
                    stat = entry.stat()
                except OSError:
                    continue
                found[entry.name] = (stat.st_size, stat.st_mtime_ns)
        return found
