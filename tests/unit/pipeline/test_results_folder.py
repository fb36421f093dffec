"""A folder of results belongs to one study and can be written to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest.mock import patch

import pytest

from usertune.core.errors import UserError
from usertune.pipeline.results_folder import STUDY_FILE, check_owner, check_writable, claim
from usertune.study.load import study_from_config
from usertune.study.schema.study import Study


def _study(name: str = "mine", **keys: str) -> Study:
    rest = {"dataset": {"root": "data"}, "users": {"test": "1"}, "base_model": {"path": "./base"}}
    return study_from_config({"name": name, **rest, "experiments": {"vanilla": {"mode": "vanilla"}}, **keys})


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_folder_belongs_to_the_study_whose_jobs_began_there() -> None:
    mine, other = _study(results="out"), _study("other", results="out")
    Path("out/data").mkdir(parents=True)
    # Results from before have no name.
    check_owner(mine)
    claim(mine)
    check_owner(mine)
    with pytest.raises(UserError, match="belongs to the study 'mine', and this study is called 'other'") as error:
        check_owner(other)
    assert "results: results/other" in str(error.value)
    assert f"delete out/{STUDY_FILE}" in str(error.value)
    Path("out", STUDY_FILE).unlink()
    claim(other)
    check_owner(other)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"study": 7}', "\0"])
def test_a_damaged_name_is_written_again(content: str) -> None:
    study = _study(results="out")
    Path("out").mkdir()
    Path("out", STUDY_FILE).write_text(content)
    check_owner(study)
    claim(study)
    assert json.loads(Path("out", STUDY_FILE).read_text()) == {"study": "mine"}


def test_a_folder_inside_of_another_study() -> None:
    Path("out").mkdir()
    claim(_study("other", results="out"))
    check_owner(_study(results="out/mine"))
    with pytest.raises(UserError, match="where the study 'other' keeps its tables"):
        check_owner(_study(results="out/tables"))


def test_results_that_are_a_file() -> None:
    Path("out").touch()
    with pytest.raises(UserError, match="out is a file"):
        check_owner(_study(results="out"))
    with pytest.raises(UserError, match="is a file, so the folder out/mine cannot be created"):
        check_writable(_study(results="out/mine"))


@pytest.mark.parametrize("folder", ["out", "out/deeper/mine"])
def test_results_that_cannot_be_written(folder: str) -> None:
    Path("out").mkdir()
    check_writable(_study(results=folder))
    # Root can write anywhere, regardless of permissions.
    with (
        patch.object(os, "access", lambda path, _mode: Path(path).name != "out"),
        pytest.raises(UserError, match="out cannot be written to"),
    ):
        check_writable(_study(results=folder))


def test_results_of_the_older_default_are_not_made_again() -> None:
    Path("results").mkdir()
    Path("results/report.manifest.json").write_text(json.dumps({"recipe": {"study": "mine"}}))
    check_owner(_study("other"))
    with pytest.raises(UserError, match="write results: results"):
        check_owner(_study())
