"""The canonical sample, and the files of one user's samples that later steps read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from usertune.errors import UserError
from usertune.fingerprint import digest, digest_file
from usertune.sealed import read_result
from usertune.step_fingerprints import samples_digest

SAMPLE_FIELDS = ("id", "user", "episode", "step", "messages", "images", "target")


class Image(TypedDict):
    """An image of a sample: ``path`` is relative to the dataset's root; sizes are pixels after EXIF rotation."""

    path: str
    sha256: str
    width: int
    height: int


class Part(TypedDict):
    """A piece of a turn: ``type`` is "text" (with ``text``) or "image" (the next one of the sample's images)."""

    type: str
    text: NotRequired[str]


class Turn(TypedDict):
    """One turn of a conversation; ``role`` is "system", "user" or "assistant"."""

    role: str
    content: list[Part]


class Sample(TypedDict):
    """One conversation of one user, ending in the answer that a model should give."""

    id: str
    user: str
    episode: str
    step: int
    messages: list[Turn]
    images: list[Image]
    target: dict[str, Any]


def request_digest(sample: Sample) -> str:
    """Return the digest of what a model is shown: the turns before the answer, and the images' bytes.

    Ids, paths and the expected answer do not count, so samples that ask the same share their prediction.
    """
    return digest({"messages": sample["messages"][:-1], "images": [image["sha256"] for image in sample["images"]]})


def read_user(manifest_file: str | Path) -> tuple[dict[str, Any], list[Sample]]:
    """Read one user's prepared samples by way of their manifest.

    Returns:
        The manifest and the samples, in the order of the raw file.

    Raises:
        UserError: the samples are missing or are not those that the manifest describes.
    """
    manifest_path = Path(manifest_file)
    manifest = read_result(manifest_path)
    samples_path = manifest_path.parent / f"user_{manifest['user']}.jsonl"
    if not samples_path.exists():
        raise UserError(f"{samples_path}: missing; delete {manifest_path} and run again so that it is remade")
    if digest_file(samples_path) != samples_digest(manifest):
        raise UserError(
            f"{samples_path}: not the content that {manifest_path} describes (edited or damaged); "
            f"delete both files and run again so that they are remade"
        )
    return manifest, read_samples(samples_path, manifest["user"])


def read_samples(samples_file: Path, user: str) -> list[Sample]:
    """Read a user's canonical samples (JSON Lines), in the order of the file.

    Raises:
        UserError: a line is not a sample of this user, an id occurs twice, or there is no sample.
    """
    samples: dict[str, Sample] = {}
    try:
        text = samples_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{samples_file}: this file does not exist; prepare user {user} first") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        sample = _parse_sample(line, f"{samples_file}:{number}")
        if sample["user"] != user:
            raise UserError(f"{samples_file}:{number}: this sample is of user {sample['user']!r}, not {user!r}")
        if sample["id"] in samples:
            raise UserError(f"{samples_file}:{number}: the id {sample['id']!r} occurs twice; prepare the user again")
        samples[sample["id"]] = sample
    if not samples:
        raise UserError(
            f"{samples_file}: user {user} has no samples, so there is nothing to use; "
            "take the user out of the test split or add data"
        )
    return list(samples.values())


def _parse_sample(line: str, place: str) -> Sample:
    try:
        sample = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not valid JSON ({error}); prepare the user again") from None
    missing = [name for name in SAMPLE_FIELDS if not isinstance(sample, dict) or name not in sample]
    if missing:
        raise UserError(f"{place}: this sample has no {', '.join(missing)}; prepare the user again")
    parsed: Sample = sample
    return parsed
