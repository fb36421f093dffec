"""Detects a Python without usertune's packages, such as the system's. Uses only the standard library."""

from __future__ import annotations

import sys
from importlib.util import find_spec

OLDEST_PYTHON = (3, 11)
# Import names of the packages that planning needs; `make setup` installs all of envs/requirements.txt.
NEEDED = ("filelock", "numpy", "PIL", "psutil", "pydantic", "rich", "yaml")


def problem(python: tuple[int, ...] = sys.version_info[:2]) -> str | None:
    """Return what is wrong with the environment and what to do; None if it is fine."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if python < OLDEST_PYTHON:
        what = f"it is Python {'.'.join(map(str, python))}, but 3.11 or newer is needed"
    elif missing:
        what = f"it lacks {', '.join(missing)}"
    else:
        return None
    return (
        f"This runs with {sys.executable}, and {what}. Is the environment activated? In the repository's folder:\n"
        "    source .venv/bin/activate          (made by: make setup)"
    )
