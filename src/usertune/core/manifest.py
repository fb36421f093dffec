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
from typing import Any

from usertune.core.errors import UserError
from usertune.core.files import write_text

SEAL = "content_sha256"
_SEAL = re.compile(rb'\{\n  "content_sha256": "([0-9a-f]{64})",\n')
REMAKE = "run snakemake, which makes it again"


def write_result(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, sealed.

    Raises:
        ValueError: ``value`` is empty or has a seal of its own, or holds NaN or an infinity, which JSON has not.
    """
    if not value or SEAL in value:
        raise ValueError(f"a result has keys, and {SEAL} is none of them: found {', '.join(value) or 'no key'}")
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    rest = text.removeprefix("{\n") + "\n"
    seal = hashlib.sha256(rest.encode("utf-8")).hexdigest()
    write_text(path, f'{{\n  "{SEAL}": "{seal}",\n{rest}')


def read_result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object that `write_result` wrote; the seal is left out.

    Raises:
        UserError: the file is missing, or is not as it was written.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: this file does not exist; {REMAKE}") from None
    if problem := seal_problem(content):
        raise UserError(f"{path}: {problem}; {REMAKE}")
    value: dict[str, Any] = json.loads(content)
    del value[SEAL]
    return value


def seal_problem(content: bytes) -> str | None:
    """Say what is wrong with the bytes of a sealed result; None if they are as they were written."""
    if not content.strip():
        return "the file is empty"
    seal = _SEAL.match(content)
    if not seal:
        return "this is not a result that usertune wrote, or its beginning was edited"
    if hashlib.sha256(content[seal.end() :]).hexdigest().encode("ascii") != seal[1]:
        return "the file was edited or cut short after it was written"
    return None
