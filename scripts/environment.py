"""Imported first by every program: finds the package beside it, and says what to do where packages are missing."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("usertune") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from usertune.runtime.environment import problem

if said := problem():
    sys.exit(said)
