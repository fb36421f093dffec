"""A study without results, and a complete one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support.workplace import Workplace, new_workplace, write_otherwise


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """A study without results."""
    return new_workplace(tmp_path / "study")


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A complete study with some data written in less usual ways; tests must not change it.

    Where tests run in several processes, one of them makes it for all.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "finished"
    with FileLock(shared / "finished.lock"):
        if not folder.exists():
            folder.mkdir()
            workplace = new_workplace(folder / "study")
            write_otherwise(workplace)
            # With the figure that the report draws.
            workplace.replace(",\n    cost_against_accuracy: *not", "")
            workplace.run(timeout=400)
            (folder / "complete").touch()
    assert (folder / "complete").exists(), "making it has failed in another process"
    return Workplace(folder / "study")


@pytest.fixture
def finished(finished_once: Workplace, tmp_path: Path) -> Iterator[Workplace]:
    """A copy of the complete study, with Snakemake's records and all file times."""
    folder = tmp_path / "study"
    shutil.copytree(finished_once.folder, folder, symlinks=True)
    yield Workplace(folder)
    shutil.rmtree(folder)
