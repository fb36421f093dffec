"""Files for arguments that are too long for a command line: recipes, lists of files, users, the study.

Linux allows 128 KiB per argument and 2 MiB in total, which ten thousand users exceed. The file name contains the digest
of the content, so as a rule's param it changes exactly when the content does.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from usertune.core.files import write_text
from usertune.core.hashing import digest_bytes

DIGITS = 16


class JobFiles:
    """The argument files of the jobs. Planning writes none; they are written before jobs run.

    Args:
        folder: folder of the files.
        write_at_once: whether jobs already run, as in the process of a cluster job.
    """

    def __init__(self, folder: str, write_at_once: bool) -> None:
        self.folder = folder
        self._write_at_once = write_at_once
        self._waiting: dict[str, str] = {}

    def text(self, name: str, content: str) -> str:
        """Return the path of a file with this content; ``name`` describes it and includes the suffix."""
        stem, dot, suffix = name.partition(".")
        path = f"{self.folder}/{stem}_{digest_bytes(content.encode('utf-8'))[:DIGITS]}{dot}{suffix}"
        if self._write_at_once:
            _write(path, content)
        else:
            self._waiting[path] = content
        return path

    def lines(self, name: str, items: Iterable[str]) -> str:
        """Return the path of a file with one item per line.

        Raises:
            ValueError: an item contains a line break.
        """
        listed = [str(item) for item in items]
        if broken := [item for item in listed if len(item.splitlines()) > 1]:
            raise ValueError(f"{broken[0]!r} contains a line break")
        return self.text(name, "".join(f"{item}\n" for item in listed))

    def start(self) -> None:
        """Write all files, and write later ones immediately.

        Raises:
            OSError: a file cannot be written.
        """
        self._write_at_once = True
        for path, content in self._waiting.items():
            _write(path, content)
        self._waiting.clear()


def _write(path: str, content: str) -> None:
    # The name contains the digest and writes are atomic, so an existing file is correct.
    if not Path(path).exists():
        write_text(path, content)
