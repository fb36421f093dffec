"""Prepare one user: check every raw sample, and write the canonical samples and a manifest."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.core.hashing import digest_bytes, digest_file
from usertune.core.manifest import read_manifest, step_manifest, write_result
from usertune.core.step_names import PREPARE
from usertune.data.canonical import Canonical, Keep
from usertune.data.folds import FoldSettings, too_few
from usertune.data.frames import Reading, frame_problem
from usertune.data.image_store import ImageStore, has_stored
from usertune.data.images import Look
from usertune.data.perceptual_hash import HashStore, perceptual_hash
from usertune.data.reader import (
    BadSampleError,
    Location,
    Reader,
    RenumbersUsers,
    describe_available,
    digest_sources,
)
from usertune.data.readers.catalogue import READERS, get_reader
from usertune.data.recipe import PrepareRecipe
from usertune.data.samples import Sample
from usertune.runtime.provenance import current_provenance
from usertune.tasks.catalogue import TASKS
from usertune.tasks.truth import NotAskedError

logger = logging.getLogger(__name__)

MAX_REPORTED_PROBLEMS = 20
ADVICE = "fix these samples, or set dataset.on_bad_sample: skip to leave bad samples out"


@dataclass(frozen=True)
class Checked:
    """A user's raw samples after the checks.

    Attributes:
        samples: the good ones, in canonical form.
        problems: the problems of the bad ones.
        not_asked: kind of action -> number of samples that the task does not ask for.
        readings: the targets in the frame of the raw data.
        stated: frame -> the targets of samples that state it.
        sources: the raw files.
        raw_sha256: digest of their content.
        raw_id: the user's id in the data, if it may be another one.
    """

    samples: list[Sample]
    problems: list[Problem]
    not_asked: Mapping[str, int]
    readings: list[Reading]
    stated: Mapping[str, list[Reading]] = field(default_factory=dict)
    sources: Sequence[Path] = ()
    raw_sha256: str = ""
    raw_id: str | None = None


class Problem(NamedTuple):
    """A problem in a raw sample: the sample's location, the ``field``, and a ``text`` that describes it."""

    location: Location
    field: str
    text: str


@dataclass(frozen=True)
class Shared:
    """What the users of one job share.

    Attributes:
        reader: the reader of the recipe, which looks through a file of many users once; None: each user has its own.
        hashes: where the perceptual hashes of images are stored; None: they are not computed.
        folds: how later steps will cut each user's samples into folds; None: they will not.
    """

    reader: Reader | None = None
    hashes: HashStore | None = None
    folds: FoldSettings | None = None


def prepare_user(
    recipe: PrepareRecipe,
    root: str | Path,
    user: str,
    samples_file: str | Path,
    manifest_file: str | Path,
    sources_state: str = "",
    shared: Shared | None = None,
) -> dict[str, Any]:
    """Check one user's raw samples and write them in canonical form.

    Args:
        recipe: how the samples are read and checked.
        root: folder of the raw data.
        user: the user's id.
        samples_file: JSON Lines to write, one canonical sample per line.
        manifest_file: JSON object to write: counts, digests, and the skipped samples.
        sources_state: `usertune.data.raw_data.RawData.state` before the data are read, for planning and the audit.
        shared: what the users of the job share; None: nothing, and images are not hashed.

    Returns:
        The manifest.

    Raises:
        UserError: the user has no raw file, no good sample, a bad sample (with ``on_bad_sample: error``), targets
            outside the declared frame, or too few samples for the folds; the message names file, line and field of each
            problem.
    """
    found: dict[str, str | None] = {}
    shared = shared or Shared()
    look = None if shared.hashes is None else partial(_look, found)
    store = ImageStore(Path(samples_file).parent)
    checked = check_user(recipe, root, user, shared.reader, look, store.keep, shared.folds)
    samples, problems = checked.samples, checked.problems
    _log_left_out(recipe, user, checked)
    text = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    samples_sha256 = digest_bytes(text.encode("utf-8"))
    manifest = {
        **step_manifest(recipe, {"samples": samples_sha256}, output=samples_sha256),
        "user": user,
        **({"raw_id": checked.raw_id} if checked.raw_id else {}),
        "samples": len(samples),
        "episodes": len({sample["episode"] for sample in samples}),
        "images": len({image["sha256"] for sample in samples for image in sample["images"]}),
        "skipped": len(problems),
        "skipped_samples": _records(checked, Path(root)),
        **({"not_asked": dict(checked.not_asked)} if checked.not_asked else {}),
        **({"stored_images": store.sizes} if store.sizes else {}),
        "raw_sha256": checked.raw_sha256,
        "sources_state": sources_state,
        "provenance": [current_provenance(PREPARE, plug_ins=_plug_ins(recipe))],
        "files": {Path(samples_file).name: samples_sha256},
    }
    write_text(samples_file, text)
    if shared.hashes is not None:
        shared.hashes.write(user, found)
    write_result(manifest_file, manifest)
    raw_id = f" (in the data: {checked.raw_id})" if checked.raw_id not in (None, user) else ""
    logger.info("user %s%s: %d samples, %d skipped", user, raw_id, len(samples), len(problems))
    return manifest


def is_prepared(recipe: PrepareRecipe, user: str, samples_file: Path, manifest_file: Path, sources_state: str) -> bool:
    """Whether `prepare_user` already ran with the same inputs, and its files are unchanged since.

    Args:
        recipe: see `prepare_user`.
        user: the user's id.
        samples_file: the canonical samples.
        manifest_file: their manifest.
        sources_state: state of the raw data; if it is unknown (empty), the result is False.
    """
    try:
        manifest = read_manifest(manifest_file)
        written = manifest["files"][samples_file.name] == digest_file(samples_file)
        asked = (user, recipe.as_json(), sources_state)
        written = written and has_stored(samples_file.parent, manifest.get("stored_images", {}))
        same = (manifest["user"], manifest["recipe"], manifest["sources_state"]) == asked
    except (UserError, OSError, KeyError, TypeError):
        return False
    return bool(sources_state) and written and same


def check_user(
    recipe: PrepareRecipe,
    root: str | Path,
    user: str,
    reader: Reader | None = None,
    look: Look | None = None,
    keep: Keep | None = None,
    folds: FoldSettings | None = None,
) -> Checked:
    """Check one user's raw samples without writing anything but what ``keep`` writes.

    Args:
        recipe: how the samples are read and checked.
        root: folder of the raw data.
        user: the user's id.
        reader: see `Shared`.
        look: see `usertune.data.images.describe_image`.
        keep: see `usertune.data.canonical.Canonical`.
        folds: see `Shared`.

    Raises:
        UserError: see `prepare_user`.
    """
    root = Path(root)
    reader = reader or get_reader(recipe.format, root, recipe.options)
    sources = reader.sources(user)
    if not sources:
        raise UserError(
            f"{root}: user {user} of the study has no raw data ({reader.looks_for}); {describe_available(reader)}"
        )
    # Digest first: a file that changes while it is read then differs from its digest and is prepared again.
    raw_sha256 = digest_sources(sources, root)
    checked = _check_samples(reader, Canonical(recipe, root, user, look, keep), user)
    samples, problems = checked.samples, checked.problems
    source = str(sources[0]) if len(sources) == 1 else f"{root}, user {user}"
    if wrong := _frame_problem(checked, recipe.frame):
        # The frame likely causes the problems of answers; list only the others.
        others = [problem for problem in problems if not problem.field.endswith((".content", ".value"))]
        also = f"\n{_problem_list(others)}" if others and recipe.on_bad_sample == "error" else ""
        raise UserError(f"{source}: the targets of user {user} are not in {wrong}{also}")
    if problems and recipe.on_bad_sample == "error":
        raise UserError(_problem_list(problems))
    if not samples:
        left_out = f"; the task {recipe.task} does not ask for {_counts(checked)}" if checked.not_asked else ""
        raise UserError(f"{source}: no good sample of user {user} ({len(problems)} bad ones{left_out})")
    if folds and (few := too_few(user, samples, folds)):
        raise UserError(f"{source}: {few}")
    raw_id = reader.raw_id(user) if isinstance(reader, RenumbersUsers) else None
    return replace(checked, sources=sources, raw_sha256=raw_sha256, raw_id=raw_id)


def _frame_problem(checked: Checked, frame: str) -> str | None:
    """Say how the targets contradict the study's frame, or one that samples state; None if they do not."""
    if wrong := frame_problem(checked.readings, frame):
        return f"dataset.frame: {frame}: {wrong}"
    for stated, readings in checked.stated.items():
        if wrong := frame_problem(readings, stated):
            # No key of the study can help.
            return f"the frame that the data state, {stated}: {wrong.split('; it looks like')[0]}; correct the data"
    return None


def _plug_ins(recipe: PrepareRecipe) -> tuple[str, ...]:
    return READERS.module(recipe.format), TASKS.module(recipe.task)


def _look(hashes: dict[str, str | None], sha256: str, image: Image.Image) -> None:
    if sha256 not in hashes:
        hashes[sha256] = perceptual_hash(image)


def _check_samples(reader: Reader, canonical: Canonical, user: str) -> Checked:
    samples: list[Sample] = []
    problems: list[Problem] = []
    not_asked: Counter[str] = Counter()
    known_ids: dict[str, Location] = {}
    for location, raw in reader.read(user):
        try:
            if isinstance(raw, BadSampleError):
                raise raw
            if raw.id in known_ids:
                first = known_ids[raw.id]
                where = f"line {first.line}" if first.file == location.file else str(first)
                raise BadSampleError("id", f"{raw.id!r} was already used in {where}")
            known_ids[raw.id] = location
            samples.append(canonical.sample(raw, location.line))
        except NotAskedError as kind:
            not_asked[str(kind)] += 1
        except BadSampleError as problem:
            problems.append(Problem(location, problem.field, str(problem)))
    return Checked(samples, problems, dict(sorted(not_asked.items())), canonical.readings, canonical.stated)


def _log_left_out(recipe: PrepareRecipe, user: str, checked: Checked) -> None:
    for problem in checked.problems:
        logger.warning("%s: skipped: %s: %s", problem.location, problem.field, problem.text)
    if checked.not_asked:
        logger.info("user %s: the task %s does not ask for: %s", user, recipe.task, _counts(checked))


def _counts(checked: Checked) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in checked.not_asked.items())


def _records(checked: Checked, root: Path) -> list[dict[str, Any]]:
    """Return the problems for the manifest, with the file if the user has several."""
    several = len(checked.sources) > 1
    return [
        {
            **({"file": os.path.relpath(problem.location.file, root)} if several else {}),
            "line": problem.location.line,
            "field": problem.field,
            "problem": problem.text,
        }
        for problem in checked.problems
    ]


def _problem_list(problems: Sequence[Problem]) -> str:
    lines = [f"{problem.location}: {problem.field}: {problem.text}" for problem in problems]
    if len(lines) > MAX_REPORTED_PROBLEMS:
        lines[MAX_REPORTED_PROBLEMS:] = [f"... and {len(lines) - MAX_REPORTED_PROBLEMS} more of this user"]
    return "\n".join([*lines, ADVICE])
