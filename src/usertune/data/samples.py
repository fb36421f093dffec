"""The canonical sample, and the files with one user's samples that later steps read."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from usertune.core.errors import UserError
from usertune.core.hashing import digest, digest_file
from usertune.core.manifest import read_manifest

About = dict[str, str | int | float]
SAMPLE_FIELDS = {"id": str, "user": str, "episode": str, "step": int, "messages": list, "images": list, "target": dict}
LONGEST_PATH = 1000
# Control characters, surrogates (names that are not UTF-8), line and paragraph separators.
_NOT_IN_PATHS = frozenset({"Cc", "Cs", "Zl", "Zp"})


class Image(TypedDict):
    """An image of a sample: ``path`` is relative to the dataset's root; sizes are pixels after EXIF rotation.

    Images inside the raw data's files (``stored``) are copied next to the prepared samples, and ``path`` is relative to
    these. The folder of the samples is added as ``folder`` when they are read; it is not written, so that results can
    be moved.
    """

    path: str
    sha256: str
    width: int
    height: int
    stored: NotRequired[bool]
    folder: NotRequired[str]


class Part(TypedDict):
    """A piece of a turn: ``type`` is "text" (with ``text``) or "image" (the next one of the sample's images)."""

    type: str
    text: NotRequired[str]


class Turn(TypedDict):
    """One turn of a conversation; ``role`` is "system", "user" or "assistant"."""

    role: str
    content: list[Part]


class Sample(TypedDict):
    """One conversation of one user, ending in the expected answer; ``about`` has what else is known, if anything."""

    id: str
    user: str
    episode: str
    step: int
    messages: list[Turn]
    images: list[Image]
    target: dict[str, Any]
    about: NotRequired[About]


def path_problem(path: str) -> str | None:
    """Say why a text cannot be an image path relative to the dataset's root; None if it can.

    Only the text is checked. Symbolic links may lead out of the root: the owner of the folder made them, often to keep
    screenshots on another disk. Paths come with the data, possibly from a stranger.
    """
    if not path or path.startswith("/") or ".." in path.split("/"):
        return "must be relative to the dataset's root, without '..'"
    if len(path) > LONGEST_PATH:
        return f"is longer than {LONGEST_PATH} characters"
    if not path.isprintable() and any(unicodedata.category(character) in _NOT_IN_PATHS for character in path):
        return "holds a line break, a control character or broken Unicode; rename the file"
    return None


def request_digest(sample: Sample) -> str:
    """Return the digest of a model's input: the turns before the answer, and the images' bytes.

    Ids, paths and the expected answer do not count, so samples with the same input share a prediction.
    """
    return digest({"messages": sample["messages"][:-1], "images": [image["sha256"] for image in sample["images"]]})


def read_user(manifest_file: str | Path) -> tuple[dict[str, Any], list[Sample]]:
    """Read the prepared samples that a manifest describes.

    Returns:
        The manifest and the samples, in the order of the raw file.

    Raises:
        UserError: the samples are missing or do not match the manifest.
    """
    manifest_path = Path(manifest_file)
    manifest = read_manifest(manifest_path)
    samples_path = manifest_path.parent / f"user_{manifest['user']}.jsonl"
    if not samples_path.exists():
        raise UserError(f"{samples_path}: missing; delete {manifest_path} and run again to rebuild both")
    if digest_file(samples_path) != manifest["output"]:
        raise UserError(
            f"{samples_path}: does not match {manifest_path} (modified or damaged); "
            "delete both files and run again to rebuild them"
        )
    return manifest, read_samples(samples_path, manifest["user"])


def read_samples(samples_file: Path, user: str) -> list[Sample]:
    """Read a user's canonical samples (JSON Lines), in the order of the file.

    Raises:
        UserError: the file is missing or has no samples, a line is not a sample of this user, or an id occurs twice.
    """
    samples: dict[str, Sample] = {}
    try:
        text = samples_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{samples_file}: does not exist; prepare user {user} first") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{samples_file}: not valid UTF-8 ({error}); prepare the user again") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        sample = _parse_sample(line, f"{samples_file}:{number}")
        if sample["user"] != user:
            raise UserError(f"{samples_file}:{number}: this sample is of user {sample['user']!r}, not {user!r}")
        if sample["id"] in samples:
            raise UserError(f"{samples_file}:{number}: the id {sample['id']!r} occurs twice; prepare the user again")
        for image in sample["images"]:
            if image.get("stored"):
                image["folder"] = str(samples_file.parent)
        samples[sample["id"]] = sample
    if not samples:
        raise UserError(f"{samples_file}: user {user} has no samples; remove the user from the test split or add data")
    return list(samples.values())


def _parse_sample(line: str, location: str) -> Sample:
    try:
        sample = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{location}: not valid JSON ({error}); prepare the user again") from None
    found = sample if isinstance(sample, dict) else {}
    missing = [name for name, kind in SAMPLE_FIELDS.items() if not isinstance(found.get(name), kind)]
    if "images" not in missing and not all(isinstance(image, dict) for image in found["images"]):
        missing.append("images")
    if missing:
        raise UserError(f"{location}: this sample has no {', '.join(missing)}; prepare the user again")
    parsed: Sample = sample
    return parsed
