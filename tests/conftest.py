"""Makers of synthetic studies, and how tests share out among processes (``pytest -n``, as `make test` does)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.synthetic_study import SyntheticStudy

# One example may take long on a busy machine; a hang is found by the time limit of a whole test.
settings.register_profile("usertune", deadline=None)
settings.load_profile("usertune")

# The longest first, so that no process is left with a long test at the end.
SLURM = "slurm"
BROWSER = "browser"
ORDER = (SLURM, "workflow", BROWSER, "fuzz", "unit", "architecture")
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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that share a cluster or a browser run in one process; every other one where there is room."""
    from xdist.scheduler import LoadScopeScheduling

    class SlurmTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            together = (room for room in (SLURM, BROWSER) if nodeid.startswith(f"tests/{room}/"))
            return next(together, nodeid)

    return SlurmTogether(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest tests first where tests share out among processes."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: (_rank(item), item.get_closest_marker("demo") is None))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let tests on SLURM have the processor first: they have time limits of minutes, and mostly wait."""
    if hasattr(item.config, "workerinput") and ORDER[_rank(item)] != SLURM and os.nice(0) < NICENESS:
        os.nice(NICENESS - os.nice(0))


def _rank(item: pytest.Item) -> int:
    """Return the position of a test's room in `ORDER`."""
    room = item.path.relative_to(item.config.rootpath / "tests").parts[0]
    return ORDER.index(room) if room in ORDER else len(ORDER) - 1


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., SyntheticStudy]:
    """Return a maker of synthetic studies; keyword arguments are the fields of `SyntheticStudy`."""

    def make(folder: str = "study", **fields: Any) -> SyntheticStudy:
        return SyntheticStudy(tmp_path / folder, **fields).write()

    return make
