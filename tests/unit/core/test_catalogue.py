"""Catalogues of plug-ins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from usertune.core.catalogue import Catalogue
from usertune.core.errors import UserError
from usertune.data.readers.catalogue import READERS
from usertune.inference.engines.catalogue import DEFAULT_ENGINE, ENGINES
from usertune.reporting.figures.catalogue import FIGURES
from usertune.tasks.catalogue import TASKS


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Catalogue:
    """A catalogue of one plug-in, in a separate module that cannot be imported."""
    module = f"plug_in_{abs(hash(request.node.name))}"
    (tmp_path / f"{module}.py").write_text(
        "import nowhere\nREADS = ('logs', 'tables')\nTITLE = (\n    'One '\n    'two'\n)\nNOW = time()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return Catalogue("figure", {"one": f"{module}:draw"})


def test_constants_are_read_without_importing_the_module(catalogue: Catalogue) -> None:
    assert catalogue.constant("one", "READS") == ("logs", "tables")
    assert catalogue.constant("one", "TITLE") == "One two"
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        catalogue.load("one")


@pytest.mark.parametrize(
    ("constant", "message"),
    [("CAPTION", r"\.py: a figure needs the constant CAPTION; see docs"), ("NOW", r"\.py:7: NOW must be a literal")],
)
def test_a_constant_that_is_missing_or_no_literal_is_an_error(
    catalogue: Catalogue, constant: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        catalogue.constant("one", constant)


@pytest.mark.parametrize("name", ["two", "", None, ["one"]])
def test_an_unknown_name_lists_those_that_exist(catalogue: Catalogue, name: str) -> None:
    for ask in (catalogue.load, catalogue.module, lambda name: catalogue.constant(name, "READS")):
        with pytest.raises(UserError, match=r"figure: .* is not known; use one of: one"):
            ask(name)


@pytest.mark.parametrize(
    ("catalogue_of_all", "constants"),
    [
        (READERS, {"FRAME": str | None, "BARE": bool}),
        (TASKS, {"PROMPT": str}),
        (ENGINES, {"NEEDS_GPU": bool, "SETTINGS": str | None}),
        (FIGURES, {"TITLE": str, "ALTERNATIVE": str, "CAPTION": str, "READS": tuple}),
    ],
    ids=["readers", "tasks", "engines", "figures"],
)
def test_every_plug_in_is_there_with_its_constants(catalogue_of_all: Catalogue, constants: dict[str, Any]) -> None:
    for name in catalogue_of_all:
        assert callable(catalogue_of_all.load(name))
        for constant, kind in constants.items():
            assert isinstance(catalogue_of_all.constant(name, constant), kind)


def test_what_planning_asks_of_plug_ins_imports_none_of_them() -> None:
    program = (
        "import sys; from usertune.inference.engines.catalogue import ENGINES\n"
        "from usertune.reporting.figures.catalogue import FIGURES\n"
        f"assert ENGINES.constant({DEFAULT_ENGINE!r}, 'NEEDS_GPU') is True\n"
        "assert 'loss_curves' in [name for name in FIGURES if FIGURES.constant(name, 'READS')]\n"
        "print([name for name in ('torch', 'matplotlib', 'pandas', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
