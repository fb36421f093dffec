"""What is recorded of code, packages and machine, and how records are compared."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usertune.runtime import provenance as module
from usertune.runtime.code_version import code_version
from usertune.runtime.provenance import (
    PACKAGES,
    UNKNOWN,
    current_provenance,
    describe_revision,
    differences,
    distinct,
    revision,
)

VERSIONS = st.dictionaries(st.sampled_from(["python", "torch", "peft"]), st.sampled_from(["1", "2"]))
RECORDS = st.builds(lambda code, versions: {"code": code, "versions": versions}, st.sampled_from("ab"), VERSIONS)


def test_a_record_says_what_a_result_is_made_with() -> None:
    record = current_provenance("score")
    assert list(record) == ["code", "versions", "revision", "machine", "device"]
    assert record["code"] == code_version("score")
    assert record["device"] == "cpu"
    assert current_provenance("score", "NVIDIA H100")["device"] == "NVIDIA H100"
    assert {"python", "usertune", "torch", "numpy"} <= record["versions"].keys() <= {"python", *PACKAGES}
    assert record["machine"]["cores"] == os.cpu_count()
    assert record["machine"]["memory_gib"] > 0
    assert record["machine"]["system"].startswith("Linux")
    assert record["machine"]["processor"]


def test_a_package_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("numpy", "no_such_package_at_all"))
    module.installed_versions.cache_clear()
    try:
        assert set(module.installed_versions()) == {"python", "numpy"}
    finally:
        module.installed_versions.cache_clear()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    else:
        yield str(value)


def test_a_record_names_no_host_no_person_and_no_folder() -> None:
    for text in _texts(current_provenance("train", "cpu")):
        assert socket.gethostname() not in re.split(r"[^\w.-]+", text)
        assert not text.startswith(("/", "~"))
        assert str(module.REPOSITORY) not in text
        assert str(Path.home()) not in text or str(Path.home()) == "/"


def test_differences_name_code_and_packages() -> None:
    record = {"code": "a", "versions": {"python": "3.11.4", "torch": "2.13.0", "peft": "0.17"}}
    now = {"code": "b", "versions": {"python": "3.11.4", "torch": "2.14.0", "numpy": "2.0"}}
    assert differences(record, now) == ["code a -> b", "torch 2.13.0 -> 2.14.0"]
    assert differences(record, {**record, "machine": {"cores": 2}, "device": "cpu", "revision": None}) == []
    assert differences(UNKNOWN, now) == ["code unknown -> b"]


@given(RECORDS, RECORDS)
def test_differences_are_the_same_both_ways(one: dict[str, Any], other: dict[str, Any]) -> None:
    there, back = differences(one, other), differences(other, one)
    turned = [re.sub(r"(\S+) (\S+) -> (\S+)", r"\1 \3 -> \2", text) for text in back]
    assert sorted(there) == sorted(turned)
    assert (not there) == (
        one["code"] == other["code"]
        and all(other["versions"].get(name, version) == version for name, version in one["versions"].items())
    )


@given(st.lists(RECORDS, max_size=6))
def test_distinct_keeps_the_first_of_each(records: list[dict[str, Any]]) -> None:
    found = distinct(records)
    assert all(record in found for record in records)
    assert len({json.dumps(record, sort_keys=True) for record in found}) == len(found)
    assert [records.index(record) for record in found] == sorted(records.index(record) for record in found)


class Repository:
    """A folder laid out like the workflow, with the package in ``src/usertune``."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        for name in ("Snakefile", "rules/train.smk", "src/usertune/__init__.py", "README.md"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("first\n")
        monkeypatch.setattr(module, "REPOSITORY", folder)
        monkeypatch.setattr(module, "SOURCE", folder / "src" / "usertune")
        # No repository above the folder counts, and no settings of the person who runs this.
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent))
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)

    def git(self, *arguments: str) -> str:
        person = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(self.folder), *person, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self) -> str:
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "a")
        return self.git("rev-parse", "HEAD")

    def revision(self) -> dict[str, Any] | None:
        module.revision.cache_clear()
        return revision()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    yield Repository(tmp_path / "workflow", monkeypatch)
    module.revision.cache_clear()


def test_outside_of_a_repository_there_is_no_revision(repository: Repository) -> None:
    assert repository.revision() is None
    assert describe_revision(None) == "unknown revision"


def test_a_repository_that_does_not_hold_the_package_is_not_its_own(repository: Repository) -> None:
    repository.git("init", "--quiet")
    assert repository.revision() is None
    (repository.folder / ".gitignore").write_text("src\n")
    repository.commit()
    assert repository.revision() is None


def test_the_commit_and_whether_the_workflow_differs_from_it_are_recorded(repository: Repository) -> None:
    repository.git("init", "--quiet")
    commit = repository.commit()
    assert repository.revision() == {"commit": commit, "dirty": False, "changed_files": []}
    assert describe_revision(repository.revision()) == commit[:12]
    (repository.folder / "README.md").write_text("second\n")
    (repository.folder / "notes.txt").write_text("new\n")
    clean = repository.revision()
    assert clean is not None
    assert not clean["dirty"], "only files that the workflow is made of count"
    (repository.folder / "Snakefile").write_text("second\n")
    (repository.folder / "src/usertune/new.py").write_text("new\n")
    (repository.folder / "rules/train.smk").unlink()
    dirty = repository.revision()
    changed = ["Snakefile", "rules/train.smk", "src/usertune/new.py"]
    assert dirty == {"commit": commit, "dirty": True, "changed_files": changed}
    assert describe_revision(dirty) == f"{commit[:12]} with uncommitted changes"


def test_many_changed_files_are_cut_short(repository: Repository) -> None:
    repository.git("init", "--quiet")
    repository.commit()
    for number in range(30):
        (repository.folder / f"src/usertune/new_{number:02}.py").write_text("new\n")
    found = repository.revision()
    assert found is not None
    assert (found["dirty"], len(found["changed_files"])) == (True, 20)


def test_without_git_there_is_no_revision(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.git("init", "--quiet")
    repository.commit()
    monkeypatch.setenv("PATH", str(repository.folder))
    assert repository.revision() is None


def test_a_record_is_plain_json_and_the_same_twice() -> None:
    record = current_provenance("predict")
    assert json.loads(json.dumps(record)) == record == current_provenance("predict")
