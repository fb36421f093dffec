"""The message of every program if packages are missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from usertune.runtime import environment

REPOSITORY = Path(__file__).resolve().parents[3]
PREPARE = REPOSITORY / "scripts/prepare.py"
PROGRAMS = sorted(path for path in (REPOSITORY / "scripts").glob("*.py") if path.name != "environment.py")


def test_nothing_is_said_where_all_is_there() -> None:
    assert environment.problem() is None


def test_an_older_python_is_named() -> None:
    assert "it is Python 3.9, but 3.11 or newer is needed" in (environment.problem((3, 9)) or "")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_every_program_checks_its_environment_first(program: Path) -> None:
    lines = [line for line in program.read_text().splitlines() if line.startswith(("import ", "from "))]
    first = next(number for number, line in enumerate(lines) if "usertune" in line)
    assert "import environment  # noqa: F401" in lines[:first]


@pytest.mark.parametrize("program", [[str(PREPARE)], ["-m", "usertune", "status"]], ids=["script", "usertune"])
def test_a_python_without_packages_says_what_to_do(program: list[str]) -> None:
    # Without site-packages and PYTHONPATH, as the system's Python.
    command = [sys.executable, "-E", "-S", *program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY / "src")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "it lacks filelock" in done.stderr
    assert "source .venv/bin/activate" in done.stderr
