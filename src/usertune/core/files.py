"""Writing results so that a reader sees either the whole file or none of it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from usertune.core.errors import UserError

# More than the rest of a block that was already taken.
PROBE_BYTES = 1 << 16


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let an `OSError` of the block that names no file, like that of a full disk, name ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def check_writable(folder: Path) -> None:
    """Write and remove a little file, since libraries have errors of their own for a full disk.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    with naming(folder), tempfile.TemporaryFile(dir=folder) as handle:
        handle.write(bytes(PROBE_BYTES))
        handle.flush()


@contextmanager
def replacement(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a hidden neighbour, which takes the place of ``path`` when the block ends well.

    On any exception the neighbour, if there is one, is removed. Nothing is flushed to disk.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def folder_replacement(folder: Path) -> Iterator[Path]:
    """Yield the path of a neighbour to fill; flushed and renamed to ``folder`` when the block ends well.

    So ``folder`` is complete whenever it exists. What was there before, and what a killed process left, is removed
    first.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    for leftover in (temporary, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    yield temporary
    sync_folder(temporary)
    temporary.rename(folder)


@contextmanager
def atomic_writer(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of ``path`` for writing and rename it into place when the block ends well.

    The bytes and the directory entry are flushed to disk before and after the rename, so that a crash
    leaves either the old file or the complete new one. On any exception the temporary file is removed.

    Raises:
        OSError: the folder cannot be written or the disk is full; nothing is left behind.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacement(target) as temporary, naming(target), temporary.open("xb") as handle:
        yield handle
        handle.flush()
        os.fsync(handle.fileno())
    _sync(target.parent)


def decode_text(content: bytes) -> str:
    """Return the text of a file that somebody else wrote: UTF-8, without the byte order mark that some editors add.

    Raises:
        ValueError: it is not UTF-8; UTF-16 and UTF-32, which some programs write, are named.
    """
    if other := other_unicode(content):
        raise ValueError(f"the file is {other}; save it as UTF-8")
    return content.decode("utf-8-sig")


def other_unicode(content: bytes) -> str | None:
    """Return UTF-16 or UTF-32, and the order of its bytes, if that is how a JSON or YAML file begins; else None."""
    found = json.detect_encoding(content)
    if not found.startswith(("utf-16", "utf-32")):
        return None
    # Without a byte order mark it is told by zero bytes, of which a damaged file may have some too.
    beginning = content[:64].decode(found, errors="ignore")
    if "\0" in beginning or 2 * sum(character.isascii() for character in beginning) < len(beginning):
        return None
    return found.upper()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, atomically (see `atomic_writer`)."""
    with atomic_writer(path) as handle:
        handle.write(text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinities are refused because JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object that an earlier step wrote.

    Raises:
        UserError: the file is missing, is not JSON, or does not hold an object.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: this file does not exist; run snakemake again so that it is made") from None
    # Not only JSONDecodeError: also bytes that are no UTF-8, and a number of more digits than Python reads.
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not valid JSON ({error}); delete the file and run snakemake again so that it is rebuild"
        ) from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def sync_folder(folder: Path) -> None:
    """Flush the files directly in ``folder``, and the folder itself, to disk."""
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
