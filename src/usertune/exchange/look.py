"""Look at raw data: which reader fits, how much there is, and which frame its numbers look like."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.step_names import PREPARE
from usertune.data.canonical import Canonical
from usertune.data.frames import FRAMES, frame_problem
from usertune.data.reader import BadSampleError, Reader
from usertune.data.readers.catalogue import READERS, get_reader
from usertune.data.recipe import PrepareRecipe, PromptSettings
from usertune.data.recognise import Found, Recognises
from usertune.tasks.catalogue import TASKS
from usertune.tasks.truth import NotAskedError

# Samples and users that are opened with their images.
SAMPLES, USERS, PROBLEMS = 100, 10, 3


@dataclass(frozen=True)
class Trial:
    """What came of a few samples in one frame.

    Attributes:
        good: how many can be used.
        looked_at: how many were opened.
        contradiction: why the numbers do not fit the frame; None if they do.
        problems: what is wrong with the first bad samples.
        not_asked: kinds of actions for which the task does not ask.
    """

    good: int
    looked_at: int
    contradiction: str | None
    problems: tuple[str, ...]
    not_asked: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """What was found.

    Attributes:
        format: name of the reader.
        found: what it recognised.
        others: names of other readers that recognise the data.
        users: the users.
        samples: the greatest possible number of samples.
        images: number of images.
        task: the task.
        frame: the frame that the study states.
        decided: what the frame follows from, or why it does not follow.
        is_decided: whether it follows.
        trial: the samples in this frame.
    """

    format: str
    found: Found
    others: tuple[str, ...]
    users: tuple[str, ...]
    samples: int
    images: int
    task: str
    frame: str
    decided: str
    is_decided: bool
    trial: Trial


def look_at(source: Path, wanted: str | None = None) -> Look:
    """Look at a file or folder of raw data.

    Args:
        source: the file or folder.
        wanted: name of the format; None to try all.

    Raises:
        UserError: it cannot be read, no format fits, or there are no samples.
    """
    matches = _matches(source, wanted)
    name, found = next(iter(matches.items()))
    reader = get_reader(name, found.root, found.options)
    users = reader.users()
    if not users:
        raise UserError(f"{source}: found no users in it ({reader.looks_for})")
    task = next(iter(TASKS))
    trials = {frame: _try(reader, name, found, task, frame, users) for frame in FRAMES}
    frame, why, is_decided = _frame_of(name, found, trials)
    if not trials[frame].looked_at:
        raise UserError(f"{source}: recognised as {name} ({found.reason}), but it holds no samples")
    samples = sum(reader.count(user) for user in users)
    images = set().union(*(reader.images(user) for user in users))
    others = tuple(other for other in matches if other != name)
    return Look(name, found, others, tuple(users), samples, len(images), task, frame, why, is_decided, trials[frame])


def _matches(source: Path, wanted: str | None) -> dict[str, Found]:
    """Return the formats that recognise the data, in the order of the catalogue."""
    if not source.exists():
        raise UserError(f"{source}: there is no such file or folder")
    if source.is_dir() and not any(os.scandir(source)):
        raise UserError(f"{source}: the folder is empty")
    readers = {name: READERS.load(name) for name in ([wanted] if wanted else READERS)}
    matches: dict[str, Found] = {}
    try:
        for name, reader in readers.items():
            if isinstance(reader, Recognises) and (found := reader.recognise(source.absolute())):
                matches[name] = found
    except OSError as error:
        raise UserError(f"{error.filename or source}: cannot be read: {error.strerror}") from None
    if not matches:
        looked = "\n".join(f"  {name}: {reader.looks_for}" for name, reader in readers.items())
        raise UserError(f"{source}: no format fits. Looked for:\n{looked}\nFormats are described in docs/data.md")
    return matches


def _try(reader: Reader, name: str, found: Found, task: str, frame: str, users: list[str]) -> Trial:
    prompt = PromptSettings(user=TASKS.constant(task, "PROMPT")) if READERS.constant(name, "BARE") else PromptSettings()
    settings: dict[str, Any] = {"format": name, "options": found.options, "task": task, "frame": frame}
    recipe = PrepareRecipe(step=PREPARE, prompt=prompt, upstream={}, **settings)
    good, looked_at, problems, not_asked = 0, 0, [], set()
    # Users that lie apart, since the first ones of a dataset are often alike.
    chosen = users[:: max(1, len(users) // USERS)][:USERS]
    readings = []
    for user in chosen:
        canonical = Canonical(recipe, found.root, user)
        for location, raw in islice(reader.read(user), max(1, SAMPLES // len(chosen))):
            looked_at += 1
            try:
                if isinstance(raw, BadSampleError):
                    raise raw
                canonical.sample(raw, location.line)
                good += 1
            except NotAskedError as kind:
                not_asked.add(str(kind))
            except BadSampleError as problem:
                problems.append(f"{location}: {problem.field}: {problem}")
        readings += canonical.readings
    return Trial(good, looked_at, frame_problem(readings, frame), tuple(problems[:PROBLEMS]), tuple(sorted(not_asked)))


def _frame_of(name: str, found: Found, trials: dict[str, Trial]) -> tuple[str, str, bool]:
    """Return the frame, what it follows from, and whether it does."""
    fitting = [frame for frame, trial in trials.items() if trial.contradiction is None and trial.good]
    usual: Any = found.frame or READERS.constant(name, "FRAME")
    if usual and (usual in fitting or not fitting):
        if not fitting:
            return usual, "the frame of this format, but the samples that were looked at do not fit it", False
        return usual, "the frame of this format, and the numbers fit it", True
    if not fitting:
        closest = max(trials, key=lambda frame: trials[frame].good)
        return closest, "the numbers that were looked at fit no frame; this one fits most", False
    most = max(trials[frame].good for frame in fitting)
    best = [frame for frame in fitting if trials[frame].good == most]
    if len(best) == 1:
        return best[0], "the numbers fit no other frame", True
    # Boxes of elements are usually measured on the screenshot; answers of models are usually in 0-1000.
    preferred = "pixels" if READERS.constant(name, "BARE") else "relative_1000"
    chosen = preferred if preferred in best else best[0]
    return chosen, f"the numbers fit {' and '.join(best)}; this one is usual for the format", False
