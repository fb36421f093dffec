"""Checksummed manifests: JSON in which the first key is the SHA-256 of everything after it.

Reading a truncated or edited result raises an error, and the workflow makes the result again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usertune.core.errors import UserError
from usertune.core.files import write_text
from usertune.core.hashing import step_fingerprint
from usertune.core.users import batch_label

if TYPE_CHECKING:
    from usertune.core.recipe import Recipe

FORMAT = 2
# For manifests without a format, or with another one.
OLD_FORMAT = f"written by another release of usertune (not in format {FORMAT})"
CHECKSUM = "content_sha256"
_CHECKSUM = re.compile(rb'\{\n  "content_sha256": "([0-9a-f]{64})",\n')
REMAKE = "run snakemake to make it again"


def step_manifest(recipe: Recipe, inputs: Mapping[str, Any], output: str | None = None) -> dict[str, Any]:
    """Return the keys that the manifest of every step has.

    Args:
        recipe: the recipe of the step.
        inputs: role -> digest of the input, or, for several inputs, name -> digest.
        output: digest of what later steps use of the result; default: the fingerprint, if they use all of it.

    Returns:
        ``step``, ``format``, ``recipe``, ``inputs``, ``fingerprint`` (see `usertune.core.hashing.step_fingerprint`) and
        ``output``.
    """
    fingerprint = step_fingerprint(recipe.as_json(), inputs)
    return {
        "step": recipe.step,
        "format": FORMAT,
        "recipe": recipe.as_json(),
        "inputs": dict(inputs),
        "fingerprint": fingerprint,
        "output": output or fingerprint,
    }


def name_among_inputs(manifest: Mapping[str, Any]) -> str:
    """Return the name of a result among several inputs in one role: its experiment, users and own name."""
    parts = [manifest[key] for key in ("experiment", "user") if key in manifest]
    parts += [batch_label(manifest["users"])] if "users" in manifest else []
    return " ".join(map(str, [*parts, *([manifest["name"]] if "name" in manifest else [])]))


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the manifest of a step.

    Raises:
        UserError: as for `read_result`, or another release of usertune wrote it.
    """
    manifest = read_result(path)
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path}: {OLD_FORMAT}; {REMAKE}")
    return manifest


def write_result(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with its checksum as the first key.

    Raises:
        ValueError: ``value`` is empty, already has a checksum, or contains NaN or an infinity.
    """
    if not value or CHECKSUM in value:
        raise ValueError(f"a result needs keys, and {CHECKSUM} must not be one: found {', '.join(value) or 'no key'}")
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    rest = text.removeprefix("{\n") + "\n"
    checksum = hashlib.sha256(rest.encode("utf-8")).hexdigest()
    write_text(path, f'{{\n  "{CHECKSUM}": "{checksum}",\n{rest}')


def read_result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object that `write_result` wrote, without its checksum.

    Raises:
        UserError: the file is missing or was modified.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: this file does not exist; {REMAKE}") from None
    if problem := checksum_problem(content):
        raise UserError(f"{path}: {problem}; {REMAKE}")
    value: dict[str, Any] = json.loads(content)
    del value[CHECKSUM]
    return value


def checksum_problem(content: bytes) -> str | None:
    """Return what is wrong with the bytes of a checksummed manifest; None if they are unmodified."""
    if not content.strip():
        return "the file is empty"
    checksum = _CHECKSUM.match(content)
    if not checksum:
        return "this is not a result that usertune wrote, or its beginning was edited"
    if hashlib.sha256(content[checksum.end() :]).hexdigest().encode("ascii") != checksum[1]:
        return "the file was edited or cut short after it was written"
    return None
