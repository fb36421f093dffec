"""The results folder: it belongs to one study, and its ``study.json`` contains the name of the study."""

from __future__ import annotations

import json
import os
from pathlib import Path

from usertune.core.errors import UserError
from usertune.core.files import write_json
from usertune.pipeline import steps
from usertune.study.schema.study import Study, default_results

STUDY_FILE = "study.json"
# Perceptual hashes of the images: the prepare jobs, which have the images decoded, write them.
IMAGE_HASHES = "store/image_hashes"
# Folders inside a results folder; another study must not use them as its results folder.
OWN_FOLDERS = frozenset({*(step.folder for step in steps.STEPS.values()), "logs", "store", steps.SUBSETS} - {""})


def check_owner(study: Study) -> None:
    """Check that a study's results folder is a folder and does not belong to another study.

    Raises:
        UserError: the check fails; the message says what to do.
    """
    folder = Path(study.results)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"results: {folder} is a file, but a folder is needed; choose another one, or move the file")
    owner = _owner(folder)
    if owner not in (None, study.name):
        raise UserError(
            f"results: {folder} belongs to the study {owner!r}, and this study is called {study.name!r}; give it "
            f"another folder (results: {default_results(study.name)}). If you renamed the study, delete "
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
        UserError: the folder, or its closest existing parent, is not writable.
    """
    folder = Path(study.results)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"results: {there} is a file, so the folder {folder} cannot be created; choose another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"results: {there} cannot be written to by you; change its permissions, or choose another folder"
        )


def claim(study: Study) -> None:
    """Write the name of the study into its results folder, if the folder has no name yet.

    Raises:
        UserError: the file cannot be written.
    """
    folder = Path(study.results)
    if _owner(folder) is None:
        try:
            write_json(folder / STUDY_FILE, {"study": study.name})
        except OSError as error:
            raise UserError(f"{folder}: results cannot be written here: {error}") from None


def _owner(folder: Path) -> str | None:
    """Return the name of the study that a folder belongs to; None if it is unknown."""
    try:
        name = json.loads((folder / STUDY_FILE).read_bytes())["study"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def _refuse_older_default(study: Study, folder: Path) -> None:
    """Raise UserError if the study has results at the old default path, ``results``."""
    try:
        made_by = json.loads((folder / steps.REPORT.manifest).read_bytes())["recipe"]["study"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if made_by == study.name:
        raise UserError(
            f"results: the default is now {study.results}, but this study's results are in {folder}; write "
            f"results: {folder.name}, or move the results"
        )
