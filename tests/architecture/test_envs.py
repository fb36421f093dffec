"""The pins of pip, conda, the container and the package agree."""

from __future__ import annotations

import re
import shlex
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


def definition_sections() -> dict[str, list[list[str]]]:
    """Return the words of every line of the Apptainer definition, by section; the header's section is ""."""
    sections: dict[str, list[list[str]]] = {"": []}
    name = ""
    text = (REPOSITORY / "envs" / "usertune.def").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0].startswith("%"):
            name = words[0]
            sections[name] = []
        elif words:
            sections[name].append(words)
    return sections


def test_the_container_installs_what_make_installs() -> None:
    sections = definition_sections()
    copies = dict(sections["%files"])
    assert set(copies) == {"envs/requirements.txt", "envs/constraints.txt"}
    assert all((REPOSITORY / file).is_file() for file in copies)
    (install,) = [words for words in sections["%post"] if words[:4] == ["python", "-m", "pip", "install"]]
    inside = {"requirements": copies["envs/requirements.txt"], "constraints": copies["envs/constraints.txt"]}
    assert install[-4:] == ["-r", inside["requirements"], "-c", inside["constraints"]]
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "pip install --disable-pip-version-check -r envs/requirements.txt -c envs/constraints.txt" in makefile
    # All pins are those of the two files.
    assert "==" not in (REPOSITORY / "envs" / "usertune.def").read_text()


def test_the_container_has_the_python_of_the_conda_environments() -> None:
    header = {words[0]: words[1] for words in definition_sections()[""]}
    assert header["Bootstrap:"] == "docker"
    version = header["From:"].removeprefix("python:").removesuffix("-slim")
    for name in ("cpu.yaml", "gpu.yaml"):
        environment = yaml.safe_load((REPOSITORY / "envs" / name).read_text())
        assert f"python={version}" in environment["dependencies"]


def test_the_container_leaves_variables_to_the_jobs_and_tests_itself() -> None:
    sections = definition_sections()
    assert "%environment" not in sections
    tested = " ".join(word for words in sections["%test"] for word in words)
    assert all(package in tested for package in ("torch", "transformers", "peft"))
    assert sections["%runscript"] == [["exec", "python", "$@"]]
    assert sections["%labels"]
