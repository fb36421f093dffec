"""Imported first by every script: finds the package in ../src, and exits with advice if packages are missing."""

import gc
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("usertune") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from usertune.runtime.environment import problem

if message := problem():
    sys.exit(message)

# Imports and tables make many objects and keep nearly all; by default, Python looks through them again and again.
gc.set_threshold(100_000, 50, 100)
