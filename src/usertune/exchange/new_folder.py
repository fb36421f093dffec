"""A folder that a command writes: complete whenever it exists, and nobody else's files are replaced."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path

import psutil

from usertune.core.errors import UserError, shown
from usertune.core.files import naming, sync_folder
from usertune.core.hashing import digest_file
from usertune.core.manifest import read_result, write_result

RECORD = "usertune-export.json"


@contextmanager
def new_folder(folder: Path, force: bool, about: Mapping[str, object]) -> Iterator[Path]:
    """Yield the path of a hidden folder next to ``folder``, which is renamed to it when the block succeeds.

    On any exception the hidden folder is removed; that of a killed process is removed by the next export to ``folder``.

    Args:
        folder: the folder to write.
        force: whether to replace what an earlier export wrote there.
        about: what the folder's `RECORD` says beside the list of files, by which a later export knows that all files
            are its own.

    Raises:
        UserError: the folder exists and ``force`` is not set, or it is not what an export wrote.
    """
    folder = folder.absolute()
    require_replaceable(folder, force)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--to {folder}: a part of this path is a file; name another folder") from None
    _remove_leftovers(folder)
    hidden = folder.with_name(f"{_prefix(folder)}{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with naming(folder):
            hidden.mkdir()
            yield hidden
            write_result(
                hidden / RECORD, {**about, "files": {name: digest_file(hidden / name) for name in _all(hidden)}}
            )
            for parent, _, _ in os.walk(hidden):
                sync_folder(Path(parent))
            # Another export may have ended since.
            require_replaceable(folder, force)
            _take_place(hidden, folder)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def require_replaceable(folder: Path, force: bool) -> None:
    """Check that a folder can be written: it is missing or empty, or an earlier export and ``force`` is set.

    Raises:
        UserError: it cannot.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"--to {folder}: this is a link or a file; name a folder that does not exist yet")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not force:
        raise UserError(f"--to {folder}: the folder has files; name another one, or add --force to replace an export")
    try:
        known = read_result(folder / RECORD)["files"]
    except (UserError, OSError, KeyError):
        raise UserError(
            f"--to {folder}: --force replaces what usertune export wrote, and this folder has no valid {RECORD}; name "
            "another folder, or delete this one yourself"
        ) from None
    if foreign := sorted({*_all(folder)} - {*known, RECORD}):
        raise UserError(
            f"--to {folder}: {shown(foreign[0])} is not of the earlier export; move it, or name another folder"
        )


def _take_place(hidden: Path, folder: Path) -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        hidden.rename(folder)
        return
    older = hidden.with_name(f"{hidden.name}.older")
    folder.rename(older)
    try:
        hidden.rename(folder)
    except OSError:
        older.rename(folder)
        raise
    shutil.rmtree(older, ignore_errors=True)


def _all(folder: Path) -> list[str]:
    """Return the paths of all files of a folder, hidden ones too, relative to it."""
    found = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _prefix(folder: Path) -> str:
    return f".{folder.name}.{socket.gethostname()}."


def _remove_leftovers(folder: Path) -> None:
    """Remove the hidden folders of processes of this machine that were killed."""
    for path in folder.parent.glob(f"{escape(_prefix(folder))}*"):
        number = path.name.removeprefix(_prefix(folder)).partition(".")[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            if path.name.endswith(".older") and not folder.exists():
                # The process was killed between the two renames.
                path.rename(folder)
            else:
                shutil.rmtree(path, ignore_errors=True)
