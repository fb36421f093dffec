"""How readers recognise raw data of their format, for `usertune import`. Data are looked at, not read whole.

A reader has the class method ``recognise(source)``, which returns what it found in a file or folder, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from usertune.core.errors import UserError
from usertune.data.json_entries import entries_of
from usertune.data.user_of import ALL

# Samples of a file and files of a folder that are looked at.
SAMPLES, FILES = 200, 50
USER_KEYS = ("user", "user_id", "uid", "person", "participant", "annotator", "worker_id")
IMAGE_FOLDERS = 1000

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """Raw data that a reader can read.

    Attributes:
        root: the dataset's root.
        reason: what was recognised.
        options: ``dataset.options``.
        frame: the frame, if the data decide it; None if the numbers must.
        notes: what could not be decided, and what was chosen; key of ``dataset`` -> comment.
    """

    root: Path
    reason: str
    options: dict[str, Any] = field(default_factory=dict)
    frame: str | None = None
    notes: dict[str, str] = field(default_factory=dict)


@runtime_checkable
class Recognises(Protocol):
    """The further method of readers that recognise their format."""

    @classmethod
    def recognise(cls, source: Path) -> Found | None:
        """Return what a file or folder holds in this format; None if it has another one.

        Raises:
            OSError: the data cannot be read.
        """


def recognise_entries(
    source: Path,
    patterns: Sequence[str],
    fits: Callable[[Entry], bool],
    images: Callable[[Entry], Iterable[Any]],
    parts: bool = False,
) -> tuple[Found, list[Entry]] | None:
    """Return JSON data of a format, with some of their samples.

    Args:
        source: a file, or a folder with files.
        patterns: names of files in a folder.
        fits: whether a sample has the format.
        images: returns the image paths of a sample as they are in the data.
        parts: whether a file may be an object of lists.

    Returns:
        The data, with ``files``, ``images`` and ``user`` as options, and samples of each file; None if none fits.
    """
    files = [source] if source.is_file() else sorted({path for pattern in patterns for path in source.glob(pattern)})
    fitting, entries = [], []
    for path in files[:FILES]:
        own = first_entries(path, parts)
        # Some samples may be damaged.
        if own and 2 * sum(map(fits, own)) > len(own):
            fitting.append(path)
            entries += own
    if not fitting:
        return None
    names = [name for entry in entries for name in images(entry) if isinstance(name, str)]
    return found_in(source, fitting, len(files) != len(fitting), entries, names), entries


def found_in(
    source: Path, fitting: Sequence[Path], name_them: bool, entries: Sequence[Entry], names: Sequence[str]
) -> Found:
    """Return data that were recognised, with ``files``, ``images`` and ``user`` as options.

    Args:
        source: the file or folder that was given.
        fitting: its files with samples.
        name_them: whether a study must name the files.
        entries: some samples.
        names: image paths in them.
    """
    folder = source.parent if source.is_file() else source
    root, below = _images_of(folder, names)
    options: dict[str, Any] = {}
    if source.is_file() or name_them or root != folder:
        listed = [path.relative_to(root).as_posix() for path in fitting]
        options["files"] = listed[0] if len(listed) == 1 else listed
    if below:
        options["images"] = below
    user = next((key for key in USER_KEYS if all(_is_name(entry.get(key)) for entry in entries)), ALL)
    if user != ALL:
        options["user"] = user
    which = fitting[0].name if len(fitting) == 1 else f"{len(fitting)} files, such as {fitting[0].name}"
    return Found(root, which, options)


def with_boxes(found: Found, boxes: Sequence[Sequence[float]]) -> Found:
    """Return recognised data with the option ``box``, and the frame where the boxes decide it."""
    fractions = all(0 <= value <= 1 for box in boxes for value in box)
    found = replace(found, frame="relative_1" if fractions else None)
    if any(box[2] <= box[0] or box[3] <= box[1] for box in boxes):
        kind = "xywh"
    elif any(box[0] + box[2] > 1 or box[1] + box[3] > 1 for box in boxes) and fractions:
        kind = "xyxy"
    else:
        kind = "xyxy" if fractions else "xywh"
        note = (
            f"The numbers of the boxes can be read as xywh (left, top, width, height) and as xyxy (left, top, right, "
            f"bottom); {kind} is usual for this kind of number. Look at a few."
        )
        found = replace(found, notes={**found.notes, "options": note})
    return replace(found, options={**found.options, "box": kind})


def first_entries(path: Path, parts: bool = False) -> list[Entry]:
    """Return the first samples of a JSON or JSON Lines file; none if one is no object or it is another file."""
    found: list[Entry] = []
    with suppress(UserError):
        for entry in islice(entries_of(path, parts), SAMPLES):
            if not isinstance(entry.value, dict):
                return []
            found.append(entry.value)
    return found


def box_of(entry: Entry, key: str) -> list[float] | None:
    """Return four finite numbers of a sample; None if it has none."""
    value = entry.get(key)
    if not isinstance(value, list) or len(value) != 4:
        return None
    if any(isinstance(one, bool) or not isinstance(one, int | float) or not math.isfinite(one) for one in value):
        return None
    return [float(one) for one in value]


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip() != ""


def _images_of(folder: Path, names: Sequence[str]) -> tuple[Path, str]:
    """Return the root and the folder below it in which the first image lies; the folder itself if none is found."""
    first = next((name for name in names if not name.startswith("/") and ".." not in name.split("/")), None)
    if first is None:
        return folder, ""
    for root in (folder, folder.parent):
        if (root / first).is_file():
            return root, ""
        below = sorted(path for pattern in ("*", "*/*") for path in islice(root.glob(pattern), IMAGE_FOLDERS))
        for path in below:
            if path.is_dir() and (path / first).is_file():
                return root, path.relative_to(root).as_posix()
    return folder, ""
