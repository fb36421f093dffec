"""The front-end libraries of the report, copied from their npm packages.

python -m tests.support.vendored    # after a change of a version in packages.json: copies the files again
"""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from usertune.core.hashing import digest_bytes
from usertune.reporting.page import VENDOR

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "npm"
LIST = VENDOR / "packages.json"


def packages() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(LIST.read_text(encoding="utf-8"))
    return found


def packed(name: str, version: str) -> dict[str, bytes]:
    """Return the files of an npm package, by their paths in it. The package is fetched once.

    Raises:
        OSError: npm is not installed.
        subprocess.SubprocessError: the registry cannot be reached.
    """
    file = CACHE / f"{name}-{version}.tgz"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=CACHE) as folder:
        if not file.exists():
            command = ["npm", "pack", "--silent", "--fetch-retries", "1", f"{name}@{version}"]
            done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=60)
            (Path(folder) / done.stdout.split()[-1]).replace(file)
    with tarfile.open(file) as archive:
        files = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive if member.isfile()}
        return {path: file.read() for path, file in files.items() if file is not None}


def main() -> None:
    listed = packages()
    for name, package in listed.items():
        contents = packed(name, package["version"])
        for path in package["files"]:
            target = VENDOR / name / Path(path).name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(contents[path])
            package["files"][path] = digest_bytes(contents[path])
    LIST.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
