"""A tiny model of every family, for tests of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny_families import write_tiny
from usertune.models.families.catalogue import FAMILIES


@pytest.fixture(scope="module", params=list(FAMILIES))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of a family; the folder has the name of its type."""
    return write_tiny(request.param, tmp_path_factory.mktemp("tiny") / request.param)
