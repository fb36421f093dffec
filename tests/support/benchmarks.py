"""Importing the programs in benchmarks/, which import each other by their short names."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from tests.support.documented import REPOSITORY

FOLDER = REPOSITORY / "benchmarks"


def benchmark_module(name: str) -> ModuleType:
    """Return the module ``benchmarks/NAME.py``."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)
