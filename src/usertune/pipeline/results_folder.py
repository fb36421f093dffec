"""The folder of results: it belongs to one study, whose name is written in it, and can be written to."""

from __future__ import annotations

import json
import os
from pathlib import Path

from usertune.core.errors import UserError
from usertune.core.files import write_json
from usertune.pipeline import steps
from usertune.study.schema.study import Study, default_results

STUDY_FILE = "study.json"
# Folders that a study has in its results; another study's folder must not be one of them.
OWN_FOLDERS = frozenset({*(step.folder for step in steps.STEPS.values()), "logs", "store", steps.SUBSETS} - {""})


def check_owner(study: Study) -> None:
    """Check that a study's folder of results is a folder, and no other study's.

    Raises:
        UserError: it is not; the message says what to do.
    """
    folder = Path(study.results)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"results: {folder} is a file, and a folder is needed; name another one, or move the file away")
    owner = _owner(folder)
    if owner not in (None, study.name):
        raise UserError(
            f"results: {folder} belongs to the study {owner!r}, and this study is called {study.name!r}; give it a "
            f"folder of its own (results: {default_results(study.name)}). If you have renamed the study, delete "
            f"{folder / STUDY_FILE}"
        )
    above = _owner(folder.absolute().parent)
    if above not in (None, study.name) and folder.name in OWN_FOLDERS:
        raise UserError(
            f"results: {folder} is where the study {above!r} keeps its {folder.name}; give this study another folder"
        )
    if not folder.exists() and folder.as_posix().endswith(default_results(study.name)):
        _refuse_older_default(study, folder.parent)


def check_writable(study: Study) -> None:
    """Check that results can be written, without writing.

    Raises:
        UserError: the folder, or the one where it would be made, cannot be written to.
    """
    folder = Path(study.results)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"results: {there} is a file, so the folder {folder} cannot be made; name another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"results: {there} cannot be written to by you; change its permissions, or choose another folder"
        )


def claim(study: Study) -> None:
    """Write the name of the study into its folder of results, unless it is there.

    Raises:
        UserError: it cannot be written.
    """
    folder = Path(study.results)
    if _owner(folder) is None:
        try:
            write_json(folder / STUDY_FILE, {"study": study.name})
        except OSError as error:
            raise UserError(f"{folder}: results cannot be written here: {error}") from None


def _owner(folder: Path) -> str | None:
    """Return the name of the study that a folder belongs to; None if nothing says so."""
    try:
        name = json.loads((folder / STUDY_FILE).read_bytes())["study"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def _refuse_older_default(study: Study, folder: Path) -> None:
    """Refuse to begin again where results are that were made when ``results`` was the default."""
    try:
        made_by = json.loads((folder / steps.REPORT.manifest).read_bytes())["recipe"]["study"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if made_by == study.name:
        raise UserError(
            f"results: left out, which now means {study.results}, but this study's results are in {folder}; write "
            f"results: {folder.name}, or move them"
        )
