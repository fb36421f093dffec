"""The pins of pip, conda and the package agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]


def pins(file: str) -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in (REPOSITORY / "envs" / file).read_text().splitlines())
    found = (re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line) for line in lines if line)
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def test_every_requirement_is_pinned() -> None:
    for file in ("requirements.txt", "requirements-test.txt", "constraints.txt"):
        lines = [line.split("#")[0].strip() for line in (REPOSITORY / "envs" / file).read_text().splitlines()]
        assert len([line for line in lines if line]) == len(pins(file)) > 0, file


@pytest.mark.parametrize("name", ["cpu.yaml", "gpu.yaml"])
def test_conda_environments_hold_the_same_pins(name: str) -> None:
    environment = yaml.safe_load((REPOSITORY / "envs" / name).read_text())
    (by_pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    expected = pins("requirements.txt")
    for requirement in map(Requirement, by_pip):
        assert str(requirement.specifier) == "==" + expected[canonicalize_name(requirement.name)]


def test_the_package_accepts_what_is_pinned() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    listed = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    pinned = pins("requirements.txt")
    for requirement in map(Requirement, listed):
        assert requirement.specifier.contains(pinned.pop(canonicalize_name(requirement.name)))
    assert not pinned, "pinned, but not a dependency of the package"
