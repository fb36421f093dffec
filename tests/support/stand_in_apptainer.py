"""A stand-in for Apptainer in tests: `apptainer --version` and `apptainer exec`, by the kernel's own namespaces.

It follows Apptainer's documentation where a job depends on it: only bound folders and the system's are there, a folder
that is missing is an error, PATH is the image's, HOME is what --home says, and APPTAINERENV_NAME becomes NAME. There
is no network, as on many compute nodes. It has no image to run: the "image" is this machine's system with one more
folder, /image/bin, that holds its Python.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

SYSTEM = ("bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "sys", "usr")
IMAGE_PATH = "/image/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Relative to the working directory: what was run, one JSON object a line; and with which arguments its Python was.
STARTS, PYTHON_STARTS = "container-starts.jsonl", "container-python.txt"


def main(arguments: list[str]) -> None:
    """Do as `apptainer` would; does not return."""
    if arguments == ["--version"]:
        print("apptainer version 1.4.0")
        sys.exit()
    parser = argparse.ArgumentParser("apptainer", allow_abbrev=False)
    execute = parser.add_subparsers(required=True).add_parser("exec", allow_abbrev=False)
    execute.add_argument("--home", required=True)
    execute.add_argument("--nv", action="store_true")
    execute.add_argument("--bind", action="append", default=[])
    execute.add_argument("image", type=Path)
    execute.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    if not options.image.is_file():
        sys.exit(f"FATAL: could not open image {options.image}")
    binds = [*options.bind, *filter(None, os.environ.get("APPTAINER_BIND", "").split(","))]
    for folder in binds:
        if not Path(folder).exists():
            sys.exit(f"FATAL: mount source {folder} doesn't exist")
    with Path(STARTS).open("a") as starts:
        print(json.dumps({"image": str(options.image), "nv": options.nv, "binds": binds}), file=starts)
    prefix = "APPTAINERENV_"
    own = {name.removeprefix(prefix): value for name, value in os.environ.items() if name.startswith(prefix)}
    environment = {**os.environ, **own, "PATH": IMAGE_PATH, "HOME": options.home}
    script = mount_script([options.home, *binds]) + f"\nexec chroot . env -C {shlex.quote(str(Path.cwd()))} "
    program = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount", "--net"]
    os.execvpe(program[0], [*program, "sh", "-ec", script + shlex.join(options.command)], environment)


def mount_script(binds: list[str]) -> str:
    """Return shell commands that lay out the container's file system and go to its root."""
    root = tempfile.mkdtemp(prefix="container-", dir=Path.cwd())
    python = f'#!/bin/sh\necho "$@" >> {PYTHON_STARTS}\nexec {shlex.quote(sys.executable)} "$@"\n'
    lines = [f"mount -t tmpfs none {shlex.quote(root)}", f"cd {shlex.quote(root)}", "mkdir -p image/bin tmp"]
    lines.append(f"printf %s {shlex.quote(python)} > image/bin/python && chmod +x image/bin/python")
    for name in SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            lines.append(f"ln -s {shlex.quote(str(path.readlink()))} {name}")
        elif path.is_dir():
            lines.append(f"mkdir {name} && mount --rbind /{name} {name}")
    # The packages of the image; a folder before what lies in it.
    for folder in sorted({*binds, sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1])}):
        path = Path(folder).resolve()
        if not path.is_relative_to("/usr"):
            inside = shlex.quote(f".{folder}")
            lines.append(f"mkdir -p {inside} && mount --rbind {shlex.quote(folder)} {inside}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
