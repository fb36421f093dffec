"""Files for what is too long for a command line: recipes, lists of files, users, the study.

Linux takes 128 KiB an argument and 2 MiB in all, which ten thousand users exceed. A command names such a file instead.
The name holds the digest of the content, so it means the same in every run, and as a rule's param it says the same as
the content.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from usertune.core.files import write_text
from usertune.core.hashing import digest_bytes

DIGITS = 16


class JobFiles:
    """The files that the commands of jobs name. Planning writes nothing; the files are written when jobs can run.

    Args:
        folder: where the files lie.
        write_at_once: whether jobs already run, as in the process of a job on a cluster.
    """

    def __init__(self, folder: str, write_at_once: bool) -> None:
        self.folder = folder
        self._write_at_once = write_at_once
        self._waiting: dict[str, str] = {}

    def text(self, name: str, content: str) -> str:
        """Return the path of a file with this content; ``name`` says what it is, and ends with the file's suffix."""
        stem, dot, suffix = name.partition(".")
        path = f"{self.folder}/{stem}_{digest_bytes(content.encode('utf-8'))[:DIGITS]}{dot}{suffix}"
        if self._write_at_once:
            _write(path, content)
        else:
            self._waiting[path] = content
        return path

    def lines(self, name: str, items: Iterable[str]) -> str:
        """Return the path of a file with one item a line.

        Raises:
            ValueError: an item holds a line break.
        """
        listed = [str(item) for item in items]
        if broken := [item for item in listed if len(item.splitlines()) > 1]:
            raise ValueError(f"{broken[0]!r} holds a line break")
        return self.text(name, "".join(f"{item}\n" for item in listed))

    def start(self) -> None:
        """Write the files, and from now on each at once.

        Raises:
            OSError: a file cannot be written.
        """
        self._write_at_once = True
        for path, content in self._waiting.items():
            _write(path, content)
        self._waiting.clear()


def _write(path: str, content: str) -> None:
    # Its name is that of its content, and it is written atomically: if it is there, it is right.
    if not Path(path).exists():
        write_text(path, content)
