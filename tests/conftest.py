"""Makers of synthetic studies, and how tests share out among processes (``pytest -n``, as `make test` does)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.synthetic_study import SyntheticStudy

# The longest first, so that no process is left with a long test at the end.
ORDER = ("slurm", "workflow", "browser", "fuzz", "unit", "architecture")
# Of tests that share the processor with those on SLURM.
NICENESS = 5
# What `--fast` leaves out: the rooms in which models are loaded, and modules that need Snakemake or torch themselves.
SLOW_ROOMS = {"demo", "inference", "models", "training"}
SLOW_IMPORTS = re.compile(r"^\s*(?:import|from) (?:torch|transformers|peft|safetensors|snakemake\w*)\b", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--fast``, for work in progress."""
    parser.addoption("--fast", action="store_true", help="only modules that need neither torch nor Snakemake")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what is slow, if asked to."""
    if not config.getoption("fast"):
        return None
    slow = bool(SLOW_ROOMS & set(collection_path.relative_to(config.rootpath).parts))
    return slow or (collection_path.suffix == ".py" and bool(SLOW_IMPORTS.search(collection_path.read_text()))) or None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process per core, and one more for the tests on SLURM, which mostly wait."""
    return min(len(os.sched_getaffinity(0)), 8) + 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where tests share out among processes, let those on SLURM run in one of them, since they disturb the cluster."""
    if not hasattr(config, "workerinput"):
        return

    def rank(item: pytest.Item) -> tuple[int, bool]:
        room = item.path.relative_to(config.rootpath / "tests").parts[0]
        return ORDER.index(room) if room in ORDER else len(ORDER), item.get_closest_marker("demo") is None

    items.sort(key=rank)
    for item in items:
        if rank(item)[0] == 0:
            item.add_marker(pytest.mark.xdist_group(ORDER[0]))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let tests on SLURM have the processor first: they have time limits of minutes, and mostly wait."""
    beside_slurm = hasattr(item.config, "workerinput") and item.get_closest_marker("xdist_group") is None
    if beside_slurm and os.nice(0) < NICENESS:
        os.nice(NICENESS)


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., SyntheticStudy]:
    """Return a maker of synthetic studies; keyword arguments are the fields of `SyntheticStudy`."""

    def make(folder: str = "study", **fields: Any) -> SyntheticStudy:
        return SyntheticStudy(tmp_path / folder, **fields).write()

    return make
