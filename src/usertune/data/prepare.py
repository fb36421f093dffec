"""Preparing one user: every raw sample is checked and written as a canonical sample, with a manifest."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from usertune.data.images import BadImageError, describe_image
from usertune.data.messages import (
    BadSampleError,
    RawSample,
    describe_available,
    parse_line,
    put_prompt,
    raw_lines,
    user_file,
)
from usertune.data.samples import Image, Sample
from usertune.errors import UserError
from usertune.files import write_text
from usertune.fingerprint import digest_bytes
from usertune.made_with import made_with
from usertune.sealed import write_result
from usertune.step_fingerprints import prepare_fingerprint
from usertune.tasks import get_task

logger = logging.getLogger(__name__)

MAX_REPORTED_PROBLEMS = 20


def prepare_user(
    recipe: Mapping[str, Any],
    root: str | Path,
    user: str,
    samples_file: str | Path,
    manifest_file: str | Path,
    sources_state: str = "",
) -> dict[str, Any]:
    """Check one user's raw samples and write them in canonical form.

    Args:
        recipe: ``format``, ``task``, ``on_bad_sample`` ("error" or "skip") and optionally ``prompt``: ``system``
            (None keeps each sample's own) and ``user``, where ``{text}`` stands for the text of the last user turn.
        root: folder of the raw data.
        user: the user's id.
        samples_file: JSON lines to write, one canonical sample each.
        manifest_file: JSON object to write: counts, digests, and the samples that were skipped.
        sources_state: `usertune.plan.sources_state` of the raw data when the job was planned, for the audit.

    Returns:
        The manifest.

    Raises:
        UserError: the user has no raw file, no good sample, or (with "error") a bad one; the message names
            file, line and field of each.
    """
    path = user_file(root, user)
    if not path.is_file():
        raise UserError(f"{path}: user {user} of the study has no raw data; {describe_available(root)}")
    samples: list[Sample] = []
    problems: list[dict[str, Any]] = []
    content = path.read_bytes()
    try:
        for number, outcome in _check_lines(content, Path(root), user, recipe):
            if isinstance(outcome, BadSampleError):
                problems.append({"line": number, "field": outcome.field, "problem": str(outcome)})
            else:
                samples.append(outcome)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if problems and recipe["on_bad_sample"] == "error":
        raise UserError(_problem_list(path, problems))
    for problem in problems:
        logger.warning("%s:%s: skipped: %s: %s", path, problem["line"], problem["field"], problem["problem"])
    if not samples:
        raise UserError(f"{path}: no good sample in this file ({len(problems)} bad ones)")
    text = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    samples_sha256 = digest_bytes(text.encode("utf-8"))
    manifest = {
        "step": "prepare",
        "user": user,
        "recipe": dict(recipe),
        "fingerprint": prepare_fingerprint(recipe, samples_sha256),
        "samples": len(samples),
        "episodes": len({sample["episode"] for sample in samples}),
        "images": len({image["sha256"] for sample in samples for image in sample["images"]}),
        "skipped": len(problems),
        "skipped_samples": problems,
        "raw_sha256": digest_bytes(content),
        "sources_state": sources_state,
        "made_with": [made_with("prepare")],
        "files": {Path(samples_file).name: samples_sha256},
    }
    write_text(samples_file, text)
    write_result(manifest_file, manifest)
    logger.info("user %s: %d samples, %d skipped", user, len(samples), len(problems))
    return manifest


def _check_lines(
    content: bytes, root: Path, user: str, recipe: Mapping[str, Any]
) -> Iterator[tuple[int, Sample | BadSampleError]]:
    lines_of_ids: dict[str, int] = {}
    known_images: dict[str, Image] = {}
    for number, line in raw_lines(content):
        try:
            raw = parse_line(line, user, number)
            if raw.id in lines_of_ids:
                raise BadSampleError("id", f"{raw.id!r} was already used in line {lines_of_ids[raw.id]}")
            lines_of_ids[raw.id] = number
            yield number, _canonical(raw, root, user, recipe, known_images)
        except BadSampleError as problem:
            yield number, problem


def _canonical(
    raw: RawSample, root: Path, user: str, recipe: Mapping[str, Any], known_images: dict[str, Image]
) -> Sample:
    answer = "".join(part.get("text", "") for part in raw.messages[-1]["content"])
    try:
        target = get_task(recipe["task"]).target_from_answer(answer)
    except ValueError as error:
        raise BadSampleError(f"messages[{len(raw.messages) - 1}].content", str(error)) from None
    for image_path in raw.image_paths:
        if image_path not in known_images:
            try:
                known_images[image_path] = describe_image(root, image_path)
            except BadImageError as error:
                raise BadSampleError("image", str(error)) from None
    put_prompt(raw, recipe.get("prompt") or {})
    return {
        "id": raw.id,
        "user": user,
        "episode": raw.episode,
        "step": raw.step,
        "messages": raw.messages,
        "images": [known_images[image_path] for image_path in raw.image_paths],
        "target": target,
    }


def _problem_list(path: Path, problems: list[dict[str, Any]]) -> str:
    lines = [f"{path}:{item['line']}: {item['field']}: {item['problem']}" for item in problems]
    if len(lines) > MAX_REPORTED_PROBLEMS:
        lines[MAX_REPORTED_PROBLEMS:] = [f"... and {len(lines) - MAX_REPORTED_PROBLEMS} more in this file"]
    return "\n".join([*lines, "mend these samples, or set dataset.on_bad_sample: skip to leave bad samples out"])
