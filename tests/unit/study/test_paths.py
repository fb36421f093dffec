"""Paths of a study are relative to its file, those of a command line to the working directory."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from usertune.core.errors import UserError
from usertune.pipeline.recipes import Recipes
from usertune.study.load import load_study, study_from_config
from usertune.study.schema.study import Study

STUDY = {
    "name": "mine",
    "dataset": {"root": "data/raw"},
    "users": {"train": "11", "test": "1"},
    "base_model": {"path": "models/base"},
    "experiments": {"vanilla": {"mode": "vanilla"}},
    "container": "image.sif",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``project/configs/mine.yaml``; the working directory is ``project``."""
    (tmp_path / "project/configs/data/raw").mkdir(parents=True)
    (tmp_path / "project/configs/models/base").mkdir(parents=True)
    (tmp_path / "project/configs/mine.yaml").write_text(yaml.safe_dump(STUDY))
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def _paths(study: Study) -> list[str | None]:
    return [study.results, study.dataset.root, study.base_model.path, study.container]


def test_paths_start_at_the_file_that_sets_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [folder / "project/configs" / path for path in ("results/mine", "data/raw", "models/base", "image.sif")]
    recipes = set()
    for working, file in [
        ("project", "configs/mine.yaml"),
        ("project/configs", "mine.yaml"),
        (".", "project/configs/mine.yaml"),
        ("project/configs/data", "../mine.yaml"),
    ]:
        monkeypatch.chdir(folder / working)
        study = load_study([file])
        assert [Path(str(path)).absolute() for path in _paths(study)] == expected, working
        recipes.add(Recipes(study).base_model())
    monkeypatch.chdir(folder / "project")
    # As people type targets.
    assert load_study(["configs/mine.yaml"]).results == "configs/results/mine"
    assert len(recipes) == 1, "from another directory nothing is stale"


def test_each_file_has_its_own_paths(folder: Path) -> None:
    (folder / "project/other.yaml").write_text("results: out\n")
    assert _paths(load_study(["configs/mine.yaml", "other.yaml"]))[:2] == ["out", "configs/data/raw"]


def test_what_was_typed_starts_at_the_working_directory(folder: Path) -> None:
    assert folder
    study = load_study(["configs/mine.yaml"], ["results=typed", "dataset={root: here}"])
    assert _paths(study) == ["typed", "here", "configs/models/base", "configs/image.sif"]
    # Another key of the section leaves the path with its file.
    assert load_study(["configs/mine.yaml"], ["dataset={watch_images: never}"]).dataset.root == "configs/data/raw"


def test_above_the_file_and_absolute(folder: Path) -> None:
    text = yaml.safe_dump({**STUDY, "results": "../results/mine", "dataset": {"root": "/data/x"}})
    (folder / "project/configs/mine.yaml").write_text(text)
    assert _paths(load_study(["configs/mine.yaml"]))[:2] == ["results/mine", "/data/x"]


def test_a_folder_next_to_the_study_comes_before_a_name_on_the_hub(folder: Path) -> None:
    assert load_study(["configs/mine.yaml"]).base_model.path == "configs/models/base"
    (folder / "project/configs/models/base").rmdir()
    (folder / "project/configs/models").rmdir()
    assert load_study(["configs/mine.yaml"]).base_model.path == "models/base"


@pytest.mark.parametrize(
    ("key", "there", "said"),
    [
        ("results", "out", "results: paths of a study are relative"),
        ("dataset", "dataset", "dataset.root: paths of a study are relative"),
    ],
)
def test_paths_as_they_used_to_be_are_refused_with_what_to_write(key: str, there: str, said: str, folder: Path) -> None:
    (folder / "project" / there).mkdir()
    value = there if key == "results" else {"root": there}
    (folder / "project/configs/mine.yaml").write_text(yaml.safe_dump({**STUDY, key: value}))
    with pytest.raises(UserError, match=said) as error:
        load_study(["configs/mine.yaml"])
    assert f"write '../{there}'" in str(error.value)
    assert "configs/mine.yaml:" in str(error.value)


def test_results_left_out_are_a_folder_of_the_study() -> None:
    raw = {key: value for key, value in STUDY.items() if key != "container"}
    assert study_from_config(raw).results == "results/mine"
    assert study_from_config({**raw, "results": None}).results == "results/mine"


@pytest.mark.parametrize(
    ("settings", "outcomes"),
    [
        ([], ""),
        (["test_users=1"], ""),
        (["test_users=5-7"], "subsets/test_5-7/"),
        (["train_users=12,13"], "subsets/train_12-13/"),
        (["validation_users=74", "test_users=2"], "subsets/validation_74_test_2/"),
        (["test_users=ana,1"], "subsets/test_ana,1/"),
    ],
)
def test_other_users_have_a_report_of_their_own(settings: list[str], outcomes: str, folder: Path) -> None:
    assert folder
    assert load_study(["configs/mine.yaml"], settings).origin.outcomes == outcomes


def test_origin_is_no_key_of_a_study() -> None:
    with pytest.raises(UserError, match="origin: unknown key"):
        study_from_config({**STUDY, "origin": {"outcomes": "subsets/x/"}})


@pytest.mark.parametrize("written", ["models/bsae", "modls/base"])
def test_a_mistyped_folder_next_to_the_study_is_no_name_on_the_hub(folder: Path, written: str) -> None:
    base = {"path": written}
    (folder / "project/configs/mine.yaml").write_text(yaml.safe_dump({**STUDY, "base_model": base}))
    assert load_study(["configs/mine.yaml"]).base_model.path == f"configs/{written}"
    meant = {"path": written, "revision": "main"}
    (folder / "project/configs/mine.yaml").write_text(yaml.safe_dump({**STUDY, "base_model": meant}))
    assert load_study(["configs/mine.yaml"]).base_model.path == written
