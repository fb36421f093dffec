"""``usertune schema`` writes what the repository holds."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from usertune.cli.main import main
from usertune.cli.schema import PAGE, SCHEMA

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_derived_files_are_written_from_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / PAGE).parent.mkdir()
    shutil.copy(REPOSITORY / PAGE, tmp_path / PAGE)
    text = (REPOSITORY / PAGE).read_text()
    row = next(line for line in text.splitlines() if line.startswith("| `"))
    (tmp_path / PAGE).write_text(text.replace(f"{row}\n", ""))
    monkeypatch.setattr(sys, "argv", ["usertune", "schema", str(tmp_path)])
    main()
    for path in (PAGE, SCHEMA):
        assert (tmp_path / path).read_bytes() == (REPOSITORY / path).read_bytes(), "run: make schema"
