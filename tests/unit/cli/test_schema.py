"""``usertune schema`` writes what the repository holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from usertune.cli.main import main
from usertune.cli.schema import PAGES, SCHEMA

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_derived_files_are_written_from_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        text = (REPOSITORY / page).read_text()
        # A row of a table that is written from the code.
        row = next(line for line in text.partition("written by usertune schema -->")[2].splitlines() if "| `" in line)
        assert row in text
        (tmp_path / page).write_text(text.replace(f"{row}\n", ""))
    monkeypatch.setattr(sys, "argv", ["usertune", "schema", str(tmp_path)])
    main()
    for path in (*PAGES, SCHEMA):
        assert (tmp_path / path).read_bytes() == (REPOSITORY / path).read_bytes(), "run: make schema"
