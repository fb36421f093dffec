"""Makers of synthetic studies, for the tests of scores, tables, figures, reports and audits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.synthetic_study import SyntheticStudy


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., SyntheticStudy]:
    """Return a maker of synthetic studies; keyword arguments are the fields of `SyntheticStudy`."""

    def make(folder: str = "study", **fields: Any) -> SyntheticStudy:
        return SyntheticStudy(tmp_path / folder, **fields).write()

    return make
