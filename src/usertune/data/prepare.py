"""Prepare one user: check every raw sample, and write the canonical samples and a manifest."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.core.hashing import digest_bytes, digest_file
from usertune.core.manifest import read_manifest, step_manifest, write_result
from usertune.core.step_names import PREPARE
from usertune.data.frames import (
    DEFAULT_FRAME,
    Parse,
    Reading,
    convert_answer,
    frame_problem,
    looks_like_fraction,
    read_point,
)
from usertune.data.images import BadImageError, describe_image
from usertune.data.prompt import put_prompt
from usertune.data.reader import BadSampleError, Location, RawSample, Reader, describe_available, digest_sources
from usertune.data.readers.catalogue import READERS, get_reader
from usertune.data.recipe import PrepareRecipe
from usertune.data.samples import Image, Sample
from usertune.data.turns import text_of
from usertune.runtime.provenance import current_provenance
from usertune.tasks.catalogue import TASKS, get_task

logger = logging.getLogger(__name__)

MAX_REPORTED_PROBLEMS = 20
ADVICE = "fix these samples, or set dataset.on_bad_sample: skip to leave bad samples out"


@dataclass(frozen=True)
class Checked:
    """A user's good samples, the problems of the others, and the raw files with the digest of their content."""

    samples: list[Sample]
    problems: list[Problem]
    sources: Sequence[Path]
    raw_sha256: str


class Problem(NamedTuple):
    """A problem in a raw sample: the sample's location, the ``field``, and a ``text`` that describes it."""

    location: Location
    field: str
    text: str


def prepare_user(
    recipe: PrepareRecipe,
    root: str | Path,
    user: str,
    samples_file: str | Path,
    manifest_file: str | Path,
    sources_state: str = "",
) -> dict[str, Any]:
    """Check one user's raw samples and write them in canonical form.

    Args:
        recipe: how the samples are read and checked.
        root: folder of the raw data.
        user: the user's id.
        samples_file: JSON Lines to write, one canonical sample per line.
        manifest_file: JSON object to write: counts, digests, and the skipped samples.
        sources_state: `usertune.checks.sources.sources_state` of the raw data at planning, for the audit.

    Returns:
        The manifest.

    Raises:
        UserError: the user has no raw file, no good sample, a bad sample (with ``on_bad_sample: error``), or targets
            outside the declared frame; the message names file, line and field of each problem.
    """
    checked = check_user(recipe, root, user)
    samples, problems = checked.samples, checked.problems
    for problem in problems:
        logger.warning("%s: skipped: %s: %s", problem.location, problem.field, problem.text)
    text = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    samples_sha256 = digest_bytes(text.encode("utf-8"))
    manifest = {
        **step_manifest(recipe, {"samples": samples_sha256}, output=samples_sha256),
        "user": user,
        "samples": len(samples),
        "episodes": len({sample["episode"] for sample in samples}),
        "images": len({image["sha256"] for sample in samples for image in sample["images"]}),
        "skipped": len(problems),
        "skipped_samples": _records(checked, Path(root)),
        "raw_sha256": checked.raw_sha256,
        "sources_state": sources_state,
        "provenance": [current_provenance(PREPARE, plug_ins=_plug_ins(recipe))],
        "files": {Path(samples_file).name: samples_sha256},
    }
    write_text(samples_file, text)
    write_result(manifest_file, manifest)
    logger.info("user %s: %d samples, %d skipped", user, len(samples), len(problems))
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
        same = (manifest["user"], manifest["recipe"], manifest["sources_state"]) == asked
    except (UserError, OSError, KeyError, TypeError):
        return False
    return bool(sources_state) and written and same


def check_user(recipe: PrepareRecipe, root: str | Path, user: str) -> Checked:
    """Check one user's raw samples without writing anything.

    Args:
        recipe: how the samples are read and checked.
        root: folder of the raw data.
        user: the user's id.

    Raises:
        UserError: see `prepare_user`.
    """
    root = Path(root)
    reader = get_reader(recipe.format, root)
    sources = reader.sources(user)
    if not sources:
        raise UserError(
            f"{root}: user {user} of the study has no raw data ({reader.looks_for}); {describe_available(reader)}"
        )
    # Digest first: a file that changes while it is read then differs from its digest and is prepared again.
    raw_sha256 = digest_sources(sources, root)
    samples, problems, readings = _check_samples(reader, root, user, recipe)
    source = str(sources[0]) if len(sources) == 1 else f"{root}, user {user}"
    if wrong := frame_problem(readings, recipe.frame):
        # The frame likely causes the problems of answers; list only the others.
        others = [problem for problem in problems if not problem.field.endswith(".content")]
        also = f"\n{_problem_list(others)}" if others and recipe.on_bad_sample == "error" else ""
        raise UserError(f"{source}: the targets of user {user} are not in dataset.frame: {recipe.frame}: {wrong}{also}")
    if problems and recipe.on_bad_sample == "error":
        raise UserError(_problem_list(problems))
    if not samples:
        raise UserError(f"{source}: no good sample of user {user} ({len(problems)} bad ones)")
    return Checked(samples, problems, sources, raw_sha256)


def _plug_ins(recipe: PrepareRecipe) -> tuple[str, ...]:
    return READERS.module(recipe.format), TASKS.module(recipe.task)


def _check_samples(
    reader: Reader, root: Path, user: str, recipe: PrepareRecipe
) -> tuple[list[Sample], list[Problem], list[Reading]]:
    """Return the good samples, the problems of the others, and all targets in the raw data's frame."""
    samples: list[Sample] = []
    problems: list[Problem] = []
    readings: list[Reading] = []
    known_ids: dict[str, Location] = {}
    known_images: dict[str, Image] = {}
    for location, raw in reader.read(user):
        try:
            if isinstance(raw, BadSampleError):
                raise raw
            if raw.id in known_ids:
                first = known_ids[raw.id]
                where = f"line {first.line}" if first.file == location.file else str(first)
                raise BadSampleError("id", f"{raw.id!r} was already used in {where}")
            known_ids[raw.id] = location
            samples.append(_canonical(raw, location.line, root, user, recipe, known_images, readings))
        except BadSampleError as problem:
            problems.append(Problem(location, problem.field, str(problem)))
    return samples, problems, readings


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


def _canonical(
    raw: RawSample,
    number: int,
    root: Path,
    user: str,
    recipe: PrepareRecipe,
    known_images: dict[str, Image],
    readings: list[Reading],
) -> Sample:
    frame, task = recipe.frame, get_task(recipe.task)
    answer = text_of(raw.messages[-1])
    point = read_point(answer, task.parse, frame)
    problem = _describe_images(raw, root, known_images)
    images = [known_images[path] for path in raw.image_paths if path in known_images]
    if point:
        # The last image is the current screen; earlier ones, if any, are history.
        size = (images[-1]["width"], images[-1]["height"]) if images and not problem else None
        readings.append(Reading(number, point, size))
    if problem:
        raise problem
    _convert(raw, images, frame, task.parse)
    where = f"messages[{raw.numbers[-1]}].content"
    if frame == DEFAULT_FRAME and point and looks_like_fraction(point):
        raise BadSampleError(where, f"the point {list(point)} looks like fractions of 1, but dataset.frame is {frame}")
    try:
        target = task.target_from_answer(text_of(raw.messages[-1]))
    except ValueError as error:
        raise BadSampleError(where, str(error)) from None
    put_prompt(raw, recipe.prompt.system, recipe.prompt.user)
    return {
        "id": raw.id,
        "user": user,
        "episode": raw.episode,
        "step": raw.step,
        "messages": raw.messages,
        "images": images,
        "target": target,
    }


def _describe_images(raw: RawSample, root: Path, known_images: dict[str, Image]) -> BadSampleError | None:
    """Add a sample's images to ``known_images``; return the problem of the first bad one."""
    for image_path in raw.image_paths:
        if image_path not in known_images:
            try:
                known_images[image_path] = describe_image(root, image_path)
            except BadImageError as error:
                return BadSampleError("image", str(error))
    return None


def _convert(raw: RawSample, images: list[Image], frame: str, parse: Parse) -> None:
    """Convert the points of all assistant turns to 0-1000, in place, each by the size of the screen before it."""
    if frame == DEFAULT_FRAME:
        return
    seen = 0
    for index, turn in enumerate(raw.messages):
        seen += sum(part["type"] == "image" for part in turn["content"])
        if turn["role"] != "assistant" or not (point := read_point(text_of(turn), parse, frame)):
            continue
        size = (images[seen - 1]["width"], images[seen - 1]["height"]) if seen else None
        try:
            turn["content"] = [{"type": "text", "text": convert_answer(text_of(turn), point, frame, size)}]
        except ValueError as error:
            raise BadSampleError(f"messages[{raw.numbers[index]}].content", str(error)) from None


def _problem_list(problems: Sequence[Problem]) -> str:
    lines = [f"{problem.location}: {problem.field}: {problem.text}" for problem in problems]
    if len(lines) > MAX_REPORTED_PROBLEMS:
        lines[MAX_REPORTED_PROBLEMS:] = [f"... and {len(lines) - MAX_REPORTED_PROBLEMS} more of this user"]
    return "\n".join([*lines, ADVICE])
