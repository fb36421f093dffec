"""Atomic writes: a reader sees either the complete file or none."""

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

# Larger than the free rest of a disk block that is already allocated.
PROBE_BYTES = 1 << 16


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add ``path`` to an `OSError` that names no file, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def check_writable(folder: Path) -> None:
    """Write and remove a small file, because libraries raise their own errors when the disk is full.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    with naming(folder), tempfile.TemporaryFile(dir=folder) as handle:
        handle.write(bytes(PROBE_BYTES))
        handle.flush()


@contextmanager
def replacement(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a hidden temporary file, which replaces ``path`` when the block succeeds.

    On any exception the temporary file is removed. Nothing is flushed to disk.
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
    """Yield the path of a temporary folder, which is flushed and renamed to ``folder`` when the block succeeds.

    ``folder`` is therefore complete whenever it exists. An existing folder and the remains of a killed process are
    removed first.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    for leftover in (temporary, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    yield temporary
    sync_folder(temporary)
    temporary.rename(folder)


@contextmanager
def atomic_writer(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file for writing, and rename it to ``path`` when the block succeeds.

    The bytes are flushed to disk before the rename and the directory entry after it, so a crash leaves either the
    old file or the complete new one. On any exception the temporary file is removed.

    Raises:
        OSError: the folder cannot be written, or the disk is full; no file is left.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacement(target) as temporary, naming(target), temporary.open("xb") as handle:
        yield handle
        handle.flush()
        os.fsync(handle.fileno())
    _sync(target.parent)


def decode_text(content: bytes) -> str:
    """Decode a file that a person wrote: UTF-8, without the byte order mark that some editors add.

    Raises:
        ValueError: it is not UTF-8; the message names UTF-16 and UTF-32, which some programs write.
    """
    if other := other_unicode(content):
        raise ValueError(f"the file is {other}; save it as UTF-8")
    return content.decode("utf-8-sig")


def other_unicode(content: bytes) -> str | None:
    """Return the encoding (UTF-16 or UTF-32, with its byte order) of a JSON or YAML file; None for any other."""
    found = json.detect_encoding(content)
    if not found.startswith(("utf-16", "utf-32")):
        return None
    # Without a byte order mark, zero bytes decide, and a damaged UTF-8 file can have some too.
    beginning = content[:64].decode(found, errors="ignore")
    if "\0" in beginning or 2 * sum(character.isascii() for character in beginning) < len(beginning):
        return None
    return found.upper()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, atomically (see `atomic_writer`)."""
    with atomic_writer(path) as handle:
        handle.write(text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinities raise ValueError because JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object that an earlier step wrote.

    Raises:
        UserError: the file is missing, is not JSON, or does not hold an object.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: this file does not exist; run snakemake to make it") from None
    # ValueError also covers bytes that are not UTF-8 and numbers with too many digits for Python.
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not valid JSON ({error}); delete the file and run snakemake to make it again"
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
