"""State of the sources when jobs are planned: raw data, their images, and a local base model."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from usertune.core.hashing import digest, digest_file, file_states
from usertune.data.reader import ScansFiles
from usertune.data.readers.catalogue import get_reader
from usertune.models.base_folder import is_local, model_files
from usertune.study.schema.study import Study


class RawData:
    """The current raw data of a study, with cached states.

    Args:
        study: the study; ``dataset.watch_images`` selects size and time, bytes, or nothing for images.
    """

    def __init__(self, study: Study) -> None:
        self.root = Path(study.dataset.root)
        self.reader = get_reader(study.dataset.format, self.root, study.dataset.options)
        self._watch_images = study.dataset.watch_images
        self._states: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._folders: dict[Path, dict[str, tuple[int, int]]] = {}

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
            path = self.root / name
            size, modified = self._folder(path.parent).get(path.name, (-1, -1))
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

    def _folder(self, folder: Path) -> dict[str, tuple[int, int]]:
        if folder not in self._folders:
            found = self._folders[folder] = {}
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    # One dangling link must not make all images of the folder missing.
                    with suppress(OSError):
                        stat = entry.stat()
                        found[entry.name] = (stat.st_size, stat.st_mtime_ns)
        return self._folders[folder]


def base_model_sources(study: Study) -> list[str]:
    """Return the files of a local base model; none for a hub name."""
    path = study.base_model.path
    if not is_local(path):
        return []
    folder = Path(path).expanduser()
    return [str(folder / name) for name in model_files(folder)]


def base_model_state(study: Study) -> str:
    """Return a digest of sizes and times of a local base model's files; empty for a hub name.

    Snakemake alone does not notice a large file that is replaced by one with an older time.
    """
    if not is_local(study.base_model.path):
        return ""
    folder = Path(study.base_model.path).expanduser()
    return digest(file_states(folder, model_files(folder)))
