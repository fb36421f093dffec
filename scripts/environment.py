"""Imported first by every script: finds the package in ../src, and exits with advice if packages are missing."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("usertune") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from usertune.runtime.environment import problem
from usertune.runtime.large_imports import collect_rarely

if message := problem():
    sys.exit(message)

collect_rarely()
