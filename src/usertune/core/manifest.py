"""Results that know when they were changed: JSON whose first key is the digest of everything after it.

A result is read by later steps for what its maker wrote. One that was cut short, or edited by hand, is refused, and
the workflow makes it again.
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

if TYPE_CHECKING:
    from usertune.core.recipe import Recipe

FORMAT = 2
# What is said of manifests that have no format, and of those of another one.
OLD_FORMAT = f"written by another release of usertune (not in format {FORMAT})"
CHECKSUM = "content_sha256"
_CHECKSUM = re.compile(rb'\{\n  "content_sha256": "([0-9a-f]{64})",\n')
REMAKE = "run snakemake, which makes it again"


def step_manifest(recipe: Recipe, inputs: Mapping[str, Any], output: str | None = None) -> dict[str, Any]:
    """Return what the manifest of every step says.

    Args:
        recipe: what the step did.
        inputs: what it did that with: for each role the digest of the input, or of each of several inputs by its name.
        output: digest of what later steps take from the result; its fingerprint where they take all of it.

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


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the manifest of a step, as `read_result` does.

    Raises:
        UserError: also where another release of usertune wrote it.
    """
    manifest = read_result(path)
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path}: {OLD_FORMAT}; {REMAKE}")
    return manifest


def write_result(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, checksummed.

    Raises:
        ValueError: ``value`` is empty or has a checksum of its own, or holds NaN or an infinity, which JSON has not.
    """
    if not value or CHECKSUM in value:
        raise ValueError(f"a result has keys, and {CHECKSUM} is none of them: found {', '.join(value) or 'no key'}")
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    rest = text.removeprefix("{\n") + "\n"
    checksum = hashlib.sha256(rest.encode("utf-8")).hexdigest()
    write_text(path, f'{{\n  "{CHECKSUM}": "{checksum}",\n{rest}')


def read_result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object that `write_result` wrote; the checksum is left out.

    Raises:
        UserError: the file is missing, or is not as it was written.
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
    """Say what is wrong with the bytes of a checksummed manifest; None if they are as they were written."""
    if not content.strip():
        return "the file is empty"
    checksum = _CHECKSUM.match(content)
    if not checksum:
        return "this is not a result that usertune wrote, or its beginning was edited"
    if hashlib.sha256(content[checksum.end() :]).hexdigest().encode("ascii") != checksum[1]:
        return "the file was edited or cut short after it was written"
    return None
